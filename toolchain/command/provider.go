package main

import (
	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"

	"openstack-ha-api/toolchain/command/local"
	"openstack-ha-api/toolchain/command/remote"
)

// newProvider puts the resources together. Their tokens follow from the package and type names: command:local:Command,
// command:remote:Command and command:remote:CopyToRemote.
func newProvider() (p.Provider, error) {
	return infer.NewProviderBuilder().
		WithResources(
			infer.Resource(&local.Command{}),
			infer.Resource(&remote.Command{}),
			infer.Resource(&remote.CopyToRemote{}),
		).
		Build()
}
