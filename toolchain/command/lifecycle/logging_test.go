package lifecycle

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// shown runs a command that prints to both streams, and returns what was logged, without secrets.
func shown(t *testing.T, logging *Logging, secrets ...string) string {
	t.Helper()
	var log bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(old)

	capture := NewCapture(t.Context(), logging, (&Inputs{}).Hider(secrets...))
	for _, piece := range []string{"first ", "line\nsecond", " line\nthe rest"} {
		fmt.Fprint(capture.Stdout, piece)
	}
	fmt.Fprintln(capture.Stderr, "complaint")
	capture.Finish()
	assert.Equal(t, Outputs{Stdout: "first line\nsecond line\nthe rest", Stderr: "complaint"}, capture.Outputs())
	assert.Equal(t, "first line\nsecond line\nthe restcomplaint\n", capture.Both())
	return log.String()
}

func TestLoggingShowsWholeLinesOfTheSelectedStreams(t *testing.T) {
	stdout := []string{`"first line"`, `"second line"`, `"the rest"`}
	stderr := []string{"complaint"}
	for logging, want := range map[Logging][]string{
		LogStdout: stdout, LogStderr: stderr, LogStdoutAndStderr: append(stdout, stderr...), LogNone: nil,
	} {
		t.Run(string(logging), func(t *testing.T) {
			log := shown(t, &logging)
			assert.Equal(t, len(want), strings.Count(log, "\n"), log)
			for _, line := range want {
				assert.Contains(t, log, line)
			}
		})
	}
}

func TestLoggingShowsBothStreamsByDefault(t *testing.T) {
	log := shown(t, nil)
	assert.Contains(t, log, "first line")
	assert.Contains(t, log, "complaint")
}

func TestLoggingShowsNoSecret(t *testing.T) {
	log := shown(t, nil, "first line\nsecond line", "complaint")
	assert.Contains(t, log, "[hidden]")
	assert.Contains(t, log, "the rest")
	for _, secret := range []string{"first line", "second line", "complaint"} {
		assert.NotContains(t, log, secret)
	}
}
