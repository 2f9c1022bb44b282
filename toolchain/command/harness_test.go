package main

import (
	"maps"
	"testing"

	"github.com/blang/semver"
	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/integration"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"github.com/stretchr/testify/require"
)

const (
	localCommand  = "command:local:Command"
	remoteCommand = "command:remote:Command"
)

// inputs are a resource's inputs, as plain Go values.
type inputs map[string]any

// secret is a secret value.
type secret struct{ value any }

// with is i with more inputs.
func (i inputs) with(more inputs) inputs {
	all := maps.Clone(i)
	maps.Copy(all, more)
	return all
}

// connection is the input with which to log in to s, with more inputs.
func (s *sshServer) connection(more inputs) inputs {
	return inputs{
		"host": "127.0.0.1", "port": float64(s.Port), "user": s.User, "privateKey": s.Key,
		"dialErrorLimit": 0.0, // no retries, unless a test sets them
	}.with(more)
}

// engine stands in for Pulumi's engine, for one resource: it calls the plugin as the engine does, and keeps the state.
type engine struct {
	t      *testing.T
	server integration.Server
	urn    resource.URN

	id    string
	state property.Map
	old   property.Map
}

func newEngine(t *testing.T, token string) *engine {
	t.Helper()
	t.Setenv("SSH_AUTH_SOCK", "") // without the developer's own keys
	plugin, err := newProvider()
	require.NoError(t, err)
	server, err := integration.NewServer(t.Context(), "command", semver.MustParse(sdkVersion),
		integration.WithProvider(plugin))
	require.NoError(t, err)
	urn := resource.NewURN("stack", "project", "", tokens.Type(token), "step")
	return &engine{t: t, server: server, urn: urn}
}

// check lets the plugin check the inputs and add the defaults.
func (e *engine) check(in inputs) (property.Map, []p.CheckFailure) {
	e.t.Helper()
	response, err := e.server.Check(p.CheckRequest{Urn: e.urn, State: e.old, Inputs: toMap(e.t, in)})
	require.NoError(e.t, err)
	return response.Inputs, response.Failures
}

func (e *engine) checked(in inputs) property.Map {
	e.t.Helper()
	checked, failures := e.check(in)
	require.Empty(e.t, failures)
	return checked
}

// create creates the resource, with a timeout in seconds (0: none).
func (e *engine) create(in inputs, seconds float64) error {
	e.t.Helper()
	checked := e.checked(in)
	response, err := e.server.Create(p.CreateRequest{Urn: e.urn, Properties: checked, Timeout: seconds})
	if err == nil {
		e.id, e.state, e.old = response.ID, response.Properties, checked
	}
	return err
}

// previewCreate and previewUpdate call the plugin as a preview does.
func (e *engine) previewCreate(in inputs) error {
	e.t.Helper()
	_, err := e.server.Create(p.CreateRequest{Urn: e.urn, Properties: e.checked(in), DryRun: true})
	return err
}

func (e *engine) previewUpdate(in inputs) error {
	e.t.Helper()
	_, err := e.server.Update(p.UpdateRequest{
		ID: e.id, Urn: e.urn, State: e.state, OldInputs: e.old, Inputs: e.checked(in), DryRun: true,
	})
	return err
}

// diff returns whether the inputs in would be a change, and whether it would replace the resource.
func (e *engine) diff(in inputs) (changed, replaced bool) {
	e.t.Helper()
	response, err := e.server.Diff(p.DiffRequest{
		ID: e.id, Urn: e.urn, State: e.state, OldInputs: e.old, Inputs: e.checked(in),
	})
	require.NoError(e.t, err)
	for _, property := range response.DetailedDiff {
		switch property.Kind {
		case p.AddReplace, p.DeleteReplace, p.UpdateReplace:
			replaced = true
		}
	}
	return response.HasChanges, replaced
}

// update updates the resource in place.
func (e *engine) update(in inputs) error {
	e.t.Helper()
	checked := e.checked(in)
	response, err := e.server.Update(p.UpdateRequest{
		ID: e.id, Urn: e.urn, State: e.state, OldInputs: e.old, Inputs: checked,
	})
	if err == nil {
		e.state, e.old = response.Properties, checked
	}
	return err
}

func (e *engine) delete() error {
	e.t.Helper()
	return e.server.Delete(p.DeleteRequest{ID: e.id, Urn: e.urn, Properties: e.state, OldInputs: e.old})
}

// output is an output of the resource.
func (e *engine) output(name string) string {
	e.t.Helper()
	value := e.state.Get(name)
	require.True(e.t, value.IsString(), "%s is %v", name, value)
	return value.AsString()
}

func toMap(t *testing.T, in inputs) property.Map {
	t.Helper()
	return toValue(t, in).AsMap()
}

func toValue(t *testing.T, in any) property.Value {
	t.Helper()
	switch in := in.(type) {
	case inputs:
		values := map[string]property.Value{}
		for name, value := range in {
			values[name] = toValue(t, value)
		}
		return property.New(values)
	case secret:
		return toValue(t, in.value).WithSecret(true)
	case []any:
		values := []property.Value{}
		for _, value := range in {
			values = append(values, toValue(t, value))
		}
		return property.New(values)
	default:
		value, err := property.Any(in)
		require.NoError(t, err)
		return value
	}
}
