package main

import (
	"context"
	"encoding/json"
	"os"
	"testing"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"
	shim "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfshim"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// names are the names and shapes that the SDK has for one resource or function (tests/unit/toolchain/sdk_names.py).
type names struct{ Inputs, Outputs map[string]any }

func sdkNames(t *testing.T) map[string]names {
	t.Helper()
	content, err := os.ReadFile("testdata/sdk-names.json")
	require.NoError(t, err)
	var all map[string]names
	require.NoError(t, json.Unmarshal(content, &all))
	return all
}

func TestResourcesHaveTheSDKsNamesAndShapes(t *testing.T) {
	sdk, info := sdkNames(t), provider()
	for name, resource := range info.Resources {
		t.Run(string(resource.Tok), func(t *testing.T) {
			want, ok := sdk[string(resource.Tok)]
			require.True(t, ok, "the SDK has no such resource")
			inputs, outputs := shapes(info.P.ResourcesMap().Get(name).Schema(), resource.Fields)
			assert.Equal(t, want.Inputs, inputs)
			assert.Equal(t, want.Outputs, outputs)
		})
	}
}

func TestFunctionsHaveTheSDKsNamesAndShapes(t *testing.T) {
	sdk, info := sdkNames(t), provider()
	for name, function := range info.DataSources {
		t.Run(string(function.Tok), func(t *testing.T) {
			want, ok := sdk[string(function.Tok)]
			require.True(t, ok, "the SDK has no such function")
			inputs, outputs := shapes(info.P.DataSourcesMap().Get(name).Schema(), function.Fields)
			for input := range inputs {
				inputs[input] = "value" // the SDK's sources do not contain the shape of an argument
			}
			outputs["id"] = "value" // every function has it
			assert.Equal(t, want.Inputs, inputs)
			assert.Equal(t, want.Outputs, outputs)
		})
	}
}

func TestTheBridgeAcceptsTheProvider(t *testing.T) {
	info := provider()
	require.NoError(t, info.P.InternalValidate())
	assert.NotNil(t, tfbridge.NewProvider(context.Background(), nil, "openstack", sdkVersion, info.P, info, []byte(schema)))
}

func TestCredentialsComeFromTheUsualVariables(t *testing.T) {
	info := provider()
	for setting, variable := range environment {
		_, ok := info.P.Schema().GetOk(setting)
		assert.True(t, ok, "the provider has no setting %s", setting)
		assert.Equal(t, []string{variable}, info.Config[setting].Default.EnvVars)
	}
}

// shapes are a Terraform schema after the bridge, in the format of sdk-names.json.
func shapes(schema shim.SchemaMap, fields map[string]*tfbridge.SchemaInfo) (inputs, outputs map[string]any) {
	inputs, outputs = map[string]any{}, map[string]any{}
	schema.Range(func(key string, property shim.Schema) bool {
		if property.Removed() != "" {
			return true
		}
		name := tfbridge.TerraformToPulumiNameV2(key, schema, fields)
		outputs[name] = shape(property, fields[key])
		if property.Required() || property.Optional() {
			inputs[name] = outputs[name]
		}
		return true
	})
	return inputs, outputs
}

func shape(property shim.Schema, field *tfbridge.SchemaInfo) any {
	var element any = "value"
	if object, ok := property.Elem().(shim.Resource); ok {
		var fields map[string]*tfbridge.SchemaInfo
		if field != nil && field.Elem != nil {
			fields = field.Elem.Fields
		}
		_, element = shapes(object.Schema(), fields) // the SDK has an object's computed fields as inputs too
	} else if nested, ok := property.Elem().(shim.Schema); ok {
		element = shape(nested, nil)
	}
	switch property.Type() {
	case shim.TypeMap:
		return "map"
	case shim.TypeList, shim.TypeSet:
		if !tfbridge.IsMaxItemsOne(property, field) {
			return []any{element}
		}
	}
	return element
}
