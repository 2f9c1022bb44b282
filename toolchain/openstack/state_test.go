package main

import (
	"slices"
	"testing"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// defaults are what the state has of inputs that a program does not set, besides a name: the defaults of the Terraform
// provider, because the published plugin adds none to a resource. A change here is a change of every stack.
var defaults = map[string]map[string]any{
	"openstack_blockstorage_volume_v3": {"volumeRetypePolicy": "never"},
	"openstack_compute_instance_v2":    {"powerState": "active"},
	"openstack_networking_subnet_v2":   {"enableDhcp": true, "ipVersion": 4.0},
}

func TestTheStateHasOnlyTheTerraformProvidersDefaultsAndAName(t *testing.T) {
	info := provider()
	server := tfbridge.NewProvider(t.Context(), nil, "openstack", sdkVersion, info.P, info, []byte(schema))
	for name, member := range info.Resources {
		t.Run(name, func(t *testing.T) {
			urn := "urn:pulumi:stack::project::" + string(member.Tok) + "::host"
			response, err := server.Check(t.Context(), &pulumirpc.CheckRequest{Urn: urn, RandomSeed: make([]byte, 32)})
			require.NoError(t, err)
			checked, err := plugin.UnmarshalProperties(response.Inputs, plugin.MarshalOptions{})
			require.NoError(t, err)
			inputs := checked.Mappable()

			want := map[string]any{}
			listed := []any{}
			for input, value := range defaults[name] {
				want[input] = value
				listed = append(listed, input)
			}
			if _, named := info.P.ResourcesMap().Get(name).Schema().GetOk("name"); named {
				assert.Regexp(t, "^host-[0-9a-f]{7}$", inputs["name"])
				want["name"] = inputs["name"]
				listed = append(listed, "name")
			}
			assert.ElementsMatch(t, listed, inputs["__defaults"])
			delete(inputs, "__defaults")
			assert.Equal(t, want, inputs)
		})
	}
}

// diff is what the plugin finds of a resource whose inputs change, and what of that replaces it.
func diff(t *testing.T, urn string, from, to resource.PropertyMap) (diffs, replaces []string) {
	t.Helper()
	info := provider()
	server := tfbridge.NewProvider(t.Context(), nil, "openstack", sdkVersion, info.P, info, []byte(schema))
	olds, err := plugin.MarshalProperties(from, plugin.MarshalOptions{})
	require.NoError(t, err)
	news, err := plugin.MarshalProperties(to, plugin.MarshalOptions{})
	require.NoError(t, err)
	response, err := server.Diff(t.Context(), &pulumirpc.DiffRequest{Id: "id", Urn: urn, Olds: olds, News: news})
	require.NoError(t, err)
	return response.GetDiffs(), response.GetReplaces()
}

// A floating IP that exists keeps its address, whatever its subnet is set to: Neutron reads that only at the creation.
func TestNoSubnetReplacesAFloatingIP(t *testing.T) {
	inputs := func(pool, subnet string) resource.PropertyMap {
		all := resource.PropertyMap{"pool": resource.NewProperty(pool)}
		if subnet != "" {
			all["subnetId"] = resource.NewProperty(subnet)
		}
		return all
	}
	urn := "urn:pulumi:stack::project::openstack:networking/floatingIp:FloatingIp::vip"
	for _, change := range []struct {
		from, to string
		updates  bool
	}{
		{"", "", false},
		{"", "one", true},
		{"one", "one", false},
		{"one", "other", true},
		{"one", "", false},
	} {
		t.Run(change.from+" to "+change.to, func(t *testing.T) {
			diffs, replaces := diff(t, urn, inputs("public", change.from), inputs("public", change.to))
			assert.Equal(t, change.updates, slices.Contains(diffs, "subnetId"))
			assert.Empty(t, replaces)
		})
	}
	_, replaces := diff(t, urn, inputs("public", ""), inputs("other", ""))
	assert.Equal(t, []string{"pool"}, replaces)
}

// A change between the flavor's disk and a volume, or of the volume, replaces the instance; what the provider reads back of
// an instance that boots from a volume, whose image Nova does not name, changes nothing.
func TestARootVolumeReplacesAnInstanceOnlyWhenItChanges(t *testing.T) {
	noImage := "Attempt to boot from volume - no image supplied"
	instance := func(image string, gibibytes float64) resource.PropertyMap {
		all := resource.PropertyMap{"name": resource.NewProperty("host"), "flavorId": resource.NewProperty("flavor")}
		if image != "" {
			all["imageId"] = resource.NewProperty(image)
		}
		if gibibytes > 0 {
			all["blockDevices"] = resource.NewProperty([]resource.PropertyValue{resource.NewProperty(resource.PropertyMap{
				"sourceType":          resource.NewProperty("image"),
				"uuid":                resource.NewProperty("image"),
				"destinationType":     resource.NewProperty("volume"),
				"volumeSize":          resource.NewProperty(gibibytes),
				"bootIndex":           resource.NewProperty(0.0),
				"deleteOnTermination": resource.NewProperty(true),
			})})
		}
		return all
	}
	urn := "urn:pulumi:stack::project::openstack:compute/instance:Instance::host"
	for name, change := range map[string]struct {
		from, to          resource.PropertyMap
		rebuilt, replaced bool
	}{
		"no change":             {instance(noImage, 20), instance("", 20), false, false},
		"a larger volume":       {instance(noImage, 20), instance("", 30), false, true},
		"from disk to volume":   {instance("image", 0), instance("", 20), false, true},
		"from volume to disk":   {instance(noImage, 20), instance("image", 0), true, true},
		"a volume and an image": {instance(noImage, 20), instance("image", 20), true, false},
	} {
		t.Run(name, func(t *testing.T) {
			diffs, replaces := diff(t, urn, change.from, change.to)
			assert.Equal(t, change.rebuilt, slices.Contains(diffs, "imageId"))
			assert.Equal(t, change.replaced, len(replaces) > 0)
		})
	}
}
