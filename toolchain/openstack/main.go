// Command pulumi-resource-openstack is Pulumi's OpenStack provider: the community's Terraform provider behind
// Pulumi's bridge. It uses the tokens and property names of the pulumi-openstack SDK of version sdkVersion, so the
// same program runs with this plugin and with the published one.
package main

import "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"

// sdkVersion is the release of the pulumi-openstack SDK whose programs this plugin serves. The engine requests the
// plugin by this version.
const sdkVersion = "5.5.3"

// The schema is a stub: the engine needs one to start the plugin, but only code generators read its details.
const schema = `{"name":"openstack","version":"` + sdkVersion + `"}`

func main() {
	tfbridge.Main("openstack", sdkVersion, provider(), []byte(schema))
}
