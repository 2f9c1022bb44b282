package main

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLocalCommandKeepsItsOutput(t *testing.T) {
	step := newEngine(t, localCommand)
	require.NoError(t, step.create(inputs{"create": "echo out; echo err >&2"}, 0))
	assert.Equal(t, "out", step.output("stdout"))
	assert.Equal(t, "err", step.output("stderr"))
}

func TestLocalCommandGetsStdinEnvironmentDirectoryAndInterpreter(t *testing.T) {
	folder := t.TempDir()
	step := newEngine(t, localCommand)
	require.NoError(t, step.create(inputs{
		"create": "cat; echo $0 $NAME; pwd -P", "stdin": "text\n", "environment": inputs{"NAME": "value"},
		"dir": folder, "interpreter": []any{"/bin/bash", "-c"},
	}, 0))
	assert.Equal(t, "text\n/bin/bash value\n"+folder, step.output("stdout"))
}

func TestLocalCommandPreviewRunsNothing(t *testing.T) {
	step := newEngine(t, localCommand)
	require.NoError(t, step.previewCreate(inputs{"create": "exit 1"}))
}

func TestLocalCommandUpdatesInPlaceAndReplacesOnTriggers(t *testing.T) {
	in := inputs{"create": "cat", "stdin": "old", "triggers": []any{"a"}}
	step := newEngine(t, localCommand)
	require.NoError(t, step.create(in, 0))

	changed, replaced := step.diff(in.with(inputs{"stdin": "new"}))
	assert.True(t, changed)
	assert.False(t, replaced)
	require.NoError(t, step.update(in.with(inputs{"stdin": "new"})))
	assert.Equal(t, "new", step.output("stdout"))

	_, replaced = step.diff(in.with(inputs{"triggers": []any{"b"}}))
	assert.True(t, replaced)
}

func TestLocalCommandGetsTheLastOutputOnDelete(t *testing.T) {
	file := t.TempDir() + "/deleted"
	step := newEngine(t, localCommand)
	require.NoError(t, step.create(inputs{
		"create": "echo made", "delete": "echo $PULUMI_COMMAND_STDOUT >" + file,
	}, 0))
	require.NoError(t, step.delete())
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "made\n", string(content))
}

func TestLocalCommandFailureHidesStdinAndEnvironment(t *testing.T) {
	err := newEngine(t, localCommand).create(inputs{
		"create": "echo begin; cat -n; echo \"$TOKEN\" | cat -n; exit 5", "stdin": "first line of stdin\n\"second\" line of stdin",
		"environment": inputs{"TOKEN": "first line of TOKEN\n\"second\" line of TOKEN"},
	}, 0)
	require.ErrorContains(t, err, "status 5")
	require.ErrorContains(t, err, "begin")
	assert.NotContains(t, err.Error(), "line of")
}

func TestTheCustomTimeoutStopsALocalCommand(t *testing.T) {
	start := time.Now()
	err := newEngine(t, localCommand).create(inputs{"create": "exec sleep 20"}, 1)
	require.ErrorContains(t, err, "timed out")
	assert.Less(t, time.Since(start), 10*time.Second)
}

func TestAnUnknownInputIsRefused(t *testing.T) {
	_, failures := newEngine(t, localCommand).check(inputs{"create": "true", "assetPaths": []any{"*"}})
	require.Len(t, failures, 1)
	assert.Contains(t, failures[0].Reason, "assetPaths")
}
