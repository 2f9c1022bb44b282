package lifecycle

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
)

// Logging says which of a command's streams Pulumi shows while it runs.
type Logging string

// The streams that can be shown.
const (
	LogStdout          Logging = "stdout"
	LogStderr          Logging = "stderr"
	LogStdoutAndStderr Logging = "stdoutAndStderr"
	LogNone            Logging = "none"
)

// Values lists the legal values for the schema.
func (Logging) Values() []infer.EnumValue[Logging] {
	return []infer.EnumValue[Logging]{
		{Name: string(LogStdout), Value: LogStdout},
		{Name: string(LogStderr), Value: LogStderr},
		{Name: string(LogStdoutAndStderr), Value: LogStdoutAndStderr},
		{Name: string(LogNone), Value: LogNone},
	}
}

// Capture collects what a command prints, and shows the streams that Logging selects, line by line.
type Capture struct {
	Stdout, Stderr io.Writer

	stdout, stderr bytes.Buffer
	mu             sync.Mutex // guards both, which is written from two streams at once
	both           bytes.Buffer
	shown          []*lineLogger
}

// NewCapture returns a Capture whose lines go to the log of the request in ctx, each after hide.
func NewCapture(ctx context.Context, logging *Logging, hide func(string) string) *Capture {
	c := &Capture{}
	which := LogStdoutAndStderr
	if logging != nil {
		which = *logging
	}
	stream := func(buffer *bytes.Buffer, show bool) io.Writer {
		writers := []io.Writer{buffer, &lockedWriter{&c.mu, &c.both}}
		if show {
			logger := &lineLogger{log: func(line string) { p.GetLogger(ctx).InfoStatus(hide(line)) }}
			c.shown = append(c.shown, logger)
			writers = append(writers, logger)
		}
		return io.MultiWriter(writers...)
	}
	c.Stdout = stream(&c.stdout, which == LogStdout || which == LogStdoutAndStderr)
	c.Stderr = stream(&c.stderr, which == LogStderr || which == LogStdoutAndStderr)
	return c
}

// Finish shows a last line that has no newline. Call it when the command has ended, before Outputs and Both.
func (c *Capture) Finish() {
	for _, logger := range c.shown {
		logger.flush()
	}
}

// Outputs is what was printed, by stream.
func (c *Capture) Outputs() Outputs {
	return Outputs{
		Stdout: strings.TrimSuffix(c.stdout.String(), "\n"),
		Stderr: strings.TrimSuffix(c.stderr.String(), "\n"),
	}
}

// Both is what was printed, in the order of arrival.
func (c *Capture) Both() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.both.String()
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(data)
}

type lineLogger struct {
	log  func(string)
	rest []byte
}

func (l *lineLogger) Write(data []byte) (int, error) {
	l.rest = append(l.rest, data...)
	for {
		end := bytes.IndexByte(l.rest, '\n')
		if end < 0 {
			return len(data), nil
		}
		l.log(string(l.rest[:end]))
		l.rest = l.rest[end+1:]
	}
}

func (l *lineLogger) flush() {
	if len(l.rest) > 0 {
		l.log(string(l.rest))
		l.rest = nil
	}
}
