package main

import (
	"context"
	"strings"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi/sdk/v3/go/property"

	"openstack-ha-api/toolchain/command/local"
	"openstack-ha-api/toolchain/command/remote"
)

// newProvider combines the resources. Their tokens follow from the package and type names: command:local:Command
// and command:remote:Command.
func newProvider() (p.Provider, error) {
	plugin, err := infer.NewProviderBuilder().
		WithResources(
			infer.Resource(&local.Command{}),
			infer.Resource(&remote.Command{}),
		).
		Build()
	if err != nil {
		return p.Provider{}, err
	}
	diff := plugin.Diff
	plugin.Diff = func(ctx context.Context, request p.DiffRequest) (p.DiffResponse, error) {
		response, err := diff(ctx, withoutOldDefault(request))
		replaceOnTriggers(response.DetailedDiff)
		return response, err
	}
	return plugin, nil
}

// withoutOldDefault removes from a state what builds of this plugin once stored as a default, so that it is no change
// that the inputs no longer have it.
func withoutOldDefault(request p.DiffRequest) p.DiffRequest {
	const name = "addPreviousOutputInEnv"
	if _, ok := request.Inputs.GetOk(name); !ok {
		for _, old := range []*property.Map{&request.State, &request.OldInputs} {
			if value := old.Get(name); value.IsBool() && value.AsBool() {
				*old = old.Delete(name)
			}
		}
	}
	return request
}

var replacing = map[p.DiffKind]p.DiffKind{p.Add: p.AddReplace, p.Delete: p.DeleteReplace, p.Update: p.UpdateReplace}

// replaceOnTriggers makes a change in the list of triggers replace the resource. infer compares the path of a change,
// "triggers[0]", with the name of the input, so on its own it replaces only when a list appears or disappears.
func replaceOnTriggers(changes map[string]p.PropertyDiff) {
	for path, change := range changes {
		if kind, ok := replacing[change.Kind]; ok && strings.HasPrefix(path, "triggers[") {
			change.Kind = kind
			changes[path] = change
		}
	}
}
