package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/pkg/v3/codegen/schema"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// omitted are the SDK's properties that this plugin does not serve; it refuses a program that sets one.
var omitted = map[string][]string{
	localCommand: {"archive", "archivePaths", "assetPaths", "assets"},
}

func TestResourcesHaveTheSDKsNamesAndShapes(t *testing.T) {
	content, err := os.ReadFile("testdata/sdk-names.json") // written by tests/unit/toolchain/sdk_names.py
	require.NoError(t, err)
	var sdk map[string]struct{ Inputs, Outputs map[string]any }
	require.NoError(t, json.Unmarshal(content, &sdk))

	response, err := newEngine(t, localCommand).server.GetSchema(p.GetSchemaRequest{})
	require.NoError(t, err)
	var plugin schema.PackageSpec
	require.NoError(t, json.Unmarshal([]byte(response.Schema), &plugin))

	for _, token := range []string{localCommand, remoteCommand} {
		t.Run(token, func(t *testing.T) {
			require.Contains(t, plugin.Resources, token)
			want := sdk[token]
			for _, name := range omitted[token] {
				delete(want.Inputs, name)
				delete(want.Outputs, name)
			}
			assert.Equal(t, want.Inputs, shapes(plugin, plugin.Resources[token].InputProperties))
			assert.Equal(t, want.Outputs, shapes(plugin, plugin.Resources[token].Properties))
		})
	}
}

func TestConnectionRequiresAHostOnly(t *testing.T) {
	_, failures := newEngine(t, remoteCommand).check(inputs{"connection": inputs{"user": "debian"}})
	require.Len(t, failures, 1)
	assert.Contains(t, failures[0].Reason, "host")
}

func shapes(plugin schema.PackageSpec, properties map[string]schema.PropertySpec) map[string]any {
	all := map[string]any{}
	for name, property := range properties {
		all[name] = shape(plugin, property.TypeSpec)
	}
	return all
}

// shape is a type in the format of sdk-names.json.
func shape(plugin schema.PackageSpec, property schema.TypeSpec) any {
	object, ok := plugin.Types[strings.TrimPrefix(property.Ref, "#/types/")]
	switch {
	case ok && object.Type == "object":
		return shapes(plugin, object.Properties)
	case property.Type == "array":
		return []any{shape(plugin, *property.Items)}
	case property.Type == "object":
		return "map"
	default:
		return "value"
	}
}
