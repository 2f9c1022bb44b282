package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/archive"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/asset"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func readFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(content)
}

// newTree makes a folder called "tree" with two files.
func newTree(t *testing.T) string {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	require.NoError(t, os.MkdirAll(filepath.Join(tree, "sub"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(tree, "a"), []byte("A"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(tree, "sub", "b"), []byte("B"), 0o644))
	return tree
}

func textAsset(t *testing.T, text string) *asset.Asset {
	t.Helper()
	made, err := asset.FromText(text)
	require.NoError(t, err)
	return made
}

func fileAsset(t *testing.T, path string) *asset.Asset {
	t.Helper()
	made, err := asset.FromPath(path)
	require.NoError(t, err)
	return made
}

func folderArchive(t *testing.T, path string) *archive.Archive {
	t.Helper()
	made, err := archive.FromPath(path)
	require.NoError(t, err)
	return made
}

func TestCopyOfATextMakesTheFoldersAboveIt(t *testing.T) {
	server, target := newServer(t).Start(t), filepath.Join(t.TempDir(), "new", "folder", "file")
	require.NoError(t, newEngine(t, copyToRemote).create(inputs{
		"connection": server.connection(nil), "source": textAsset(t, "text"), "remotePath": target,
	}, 0))
	assert.Equal(t, "text", readFile(t, target))
}

func TestCopyOfAFileGoesToAPathOrIntoAFolder(t *testing.T) {
	server, folder := newServer(t).Start(t), t.TempDir()
	source := filepath.Join(newTree(t), "a")
	for remotePath, want := range map[string]string{folder: folder + "/a", folder + "/other": folder + "/other"} {
		require.NoError(t, newEngine(t, copyToRemote).create(inputs{
			"connection": server.connection(nil), "source": fileAsset(t, source), "remotePath": remotePath,
		}, 0))
		assert.Equal(t, "A", readFile(t, want))
	}
}

func TestCopyOfAFolderIsItselfOrWithASlashItsContent(t *testing.T) {
	server := newServer(t).Start(t)
	for suffix, below := range map[string]string{"": "tree", "/": ""} {
		target := filepath.Join(t.TempDir(), "target")
		require.NoError(t, newEngine(t, copyToRemote).create(inputs{
			"connection": server.connection(nil), "source": folderArchive(t, newTree(t)+suffix), "remotePath": target,
		}, 0))
		assert.Equal(t, "A", readFile(t, filepath.Join(target, below, "a")))
		assert.Equal(t, "B", readFile(t, filepath.Join(target, below, "sub", "b")))
	}
}

func TestCopyIsRepeatedForNewContentOnly(t *testing.T) {
	first, second := newServer(t).Start(t), newServer(t).Start(t)
	target := filepath.Join(t.TempDir(), "file")
	in := inputs{"connection": first.connection(nil), "source": textAsset(t, "old"), "remotePath": target}
	step := newEngine(t, copyToRemote)
	require.NoError(t, step.create(in, 0))

	moved := in.with(inputs{"connection": second.connection(nil)})
	changed, replaced := step.diff(moved)
	assert.True(t, changed)
	assert.False(t, replaced)
	require.NoError(t, step.update(moved))
	assert.Zero(t, second.Connections.Load())

	require.NoError(t, step.update(moved.with(inputs{"source": textAsset(t, "new")})))
	assert.Equal(t, "new", readFile(t, target))

	_, replaced = step.diff(moved.with(inputs{"source": textAsset(t, "new"), "triggers": []any{"x"}}))
	assert.True(t, replaced)
}

func TestCopyPreviewOpensNoConnection(t *testing.T) {
	server := newServer(t).Start(t)
	require.NoError(t, newEngine(t, copyToRemote).previewCreate(inputs{
		"connection": server.connection(nil), "source": textAsset(t, "text"), "remotePath": "/nowhere",
	}))
	assert.Zero(t, server.Connections.Load())
}

func TestCopyOfAnythingElseIsRefused(t *testing.T) {
	bundle, err := archive.FromAssets(map[string]any{"name": textAsset(t, "text")})
	require.NoError(t, err)
	_, failures := newEngine(t, copyToRemote).check(inputs{
		"connection": inputs{"host": "h"}, "source": bundle, "remotePath": "/x",
	})
	require.Len(t, failures, 1)
	assert.Contains(t, failures[0].Reason, "FileAsset")
}

func TestCopyOfATextOntoAFolderIsRefused(t *testing.T) {
	server := newServer(t).Start(t)
	err := newEngine(t, copyToRemote).create(inputs{
		"connection": server.connection(nil), "source": textAsset(t, "text"), "remotePath": t.TempDir(),
	}, 0)
	require.ErrorContains(t, err, "is a directory")
}
