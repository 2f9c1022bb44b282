package main

import (
	"strings"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"
	shim "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfshim/sdk-v2"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/terraform-provider-openstack/terraform-provider-openstack/v3/openstack"
)

// resources maps what this project's programs create: the Terraform name to Pulumi's "module/Type". Volumes, DNS
// records, networks and routers are for planned work.
var resources = map[string]string{
	"openstack_blockstorage_volume_v3":                "blockstorage/Volume",
	"openstack_compute_instance_v2":                   "compute/Instance",
	"openstack_compute_keypair_v2":                    "compute/Keypair",
	"openstack_compute_servergroup_v2":                "compute/ServerGroup",
	"openstack_compute_volume_attach_v2":              "compute/VolumeAttach",
	"openstack_dns_recordset_v2":                      "dns/RecordSet",
	"openstack_networking_floatingip_associate_v2":    "networking/FloatingIpAssociate",
	"openstack_networking_floatingip_v2":              "networking/FloatingIp",
	"openstack_networking_network_v2":                 "networking/Network",
	"openstack_networking_port_v2":                    "networking/Port",
	"openstack_networking_port_secgroup_associate_v2": "networking/PortSecGroupAssociate",
	"openstack_networking_router_interface_v2":        "networking/RouterInterface",
	"openstack_networking_router_v2":                  "networking/Router",
	"openstack_networking_secgroup_rule_v2":           "networking/SecGroupRule",
	"openstack_networking_secgroup_v2":                "networking/SecGroup",
	"openstack_networking_subnet_v2":                  "networking/Subnet",
}

// dataSources maps what this project's programs look up: the Terraform name to Pulumi's "module/function".
var dataSources = map[string]string{
	"openstack_compute_flavor_v2":        "compute/getFlavor",
	"openstack_compute_instance_v2":      "compute/getInstanceV2",
	"openstack_compute_keypair_v2":       "compute/getKeypair",
	"openstack_dns_zone_v2":              "dns/getDnsZone",
	"openstack_images_image_ids_v2":      "images/getImageIds",
	"openstack_images_image_v2":          "images/getImage",
	"openstack_networking_floatingip_v2": "networking/getFloatingIp",
	"openstack_networking_network_v2":    "networking/getNetwork",
	"openstack_networking_port_ids_v2":   "networking/getPortIds",
	"openstack_networking_port_v2":       "networking/getPort",
	"openstack_networking_subnet_v2":     "networking/getSubnet",
}

// environment is the variable for each provider setting that has none in the Terraform provider, or that the published
// plugin resolves itself.
var environment = map[string]string{
	"allow_reauth":  "OS_ALLOW_REAUTH",
	"cloud":         "OS_CLOUD",
	"delayed_auth":  "OS_DELAYED_AUTH",
	"endpoint_type": "OS_ENDPOINT_TYPE",
	"insecure":      "OS_INSECURE",
	"region":        "OS_REGION_NAME",
	"swauth":        "OS_SWAUTH",
}

// provider describes the plugin to the bridge.
func provider() tfbridge.ProviderInfo {
	info := tfbridge.ProviderInfo{
		P:            shim.NewProvider(openstack.Provider()),
		Name:         "openstack",
		Version:      sdkVersion,
		MetadataInfo: tfbridge.NewProviderMetadata([]byte("{}")),
		Config:       map[string]*tfbridge.SchemaInfo{},
		Resources:    map[string]*tfbridge.ResourceInfo{},
		DataSources:  map[string]*tfbridge.DataSourceInfo{},
	}
	for setting, variable := range environment {
		info.Config[setting] = &tfbridge.SchemaInfo{
			Default: &tfbridge.DefaultInfo{EnvVars: []string{variable}},
		}
	}
	for name, member := range resources {
		info.Resources[name] = &tfbridge.ResourceInfo{Tok: tokens.Type(token(member))}
	}
	for name, member := range dataSources {
		info.DataSources[name] = &tfbridge.DataSourceInfo{Tok: token(member)}
	}
	// The published plugin sets this plural explicitly.
	info.Resources["openstack_networking_subnet_v2"].Fields = map[string]*tfbridge.SchemaInfo{
		"allocation_pool": {Name: "allocationPools"},
	}
	// A resource without a name gets the Pulumi resource's name and a random suffix, as with the published plugin.
	info.SetAutonaming(255, "-")
	return info
}

// token turns "compute/Instance" into "openstack:compute/instance:Instance", Pulumi's full form.
func token(member string) tokens.ModuleMember {
	module, name, _ := strings.Cut(member, "/")
	file := strings.ToLower(name[:1]) + name[1:]
	return tokens.ModuleMember("openstack:" + module + "/" + file + ":" + name)
}
