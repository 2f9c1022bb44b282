package main

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// documented is an input as the published plugin's schema describes it.
type documented struct {
	name string
	// value is an example.
	value any
	// empty is the type's empty value, which is stored as it is if a program sets it.
	empty any
	// unset is what is stored if a program does not set it; nil is nothing, whatever the description calls the default.
	unset  any
	secret bool
}

var command = []documented{
	{name: "addPreviousOutputInEnv", value: true, empty: false}, // its text says "Defaults to true"
	{name: "create", value: "true", empty: ""},
	{name: "delete", value: "true", empty: ""},
	{name: "environment", value: inputs{"NAME": "value"}, empty: inputs{}},
	{name: "logging", value: "none", empty: "stdoutAndStderr"}, // its text says "Defaults to logging both"
	{name: "stdin", value: "text\n", empty: ""},
	{name: "triggers", value: []any{"a", 1.0, true}, empty: []any{}},
	{name: "update", value: "true", empty: ""},
}

var endpoint = []documented{
	{name: "agentSocketPath", value: "/agent", empty: ""},
	{name: "dialErrorLimit", value: -1.0, empty: 0.0, unset: 10.0},
	{name: "hostKey", value: "ssh-ed25519 AAAA", empty: ""},
	{name: "password", value: "secret", empty: "", secret: true},
	{name: "perDialTimeout", value: 60.0, empty: 0.0, unset: 15.0},
	{name: "port", value: 2222.0, empty: 0.0, unset: 22.0},
	{name: "privateKey", value: "secret", empty: "", secret: true},
	{name: "privateKeyPassword", value: "secret", empty: "", secret: true},
	{name: "user", value: "debian", empty: "", unset: "root"},
}

// resources lists each resource's inputs, without a remote command's connection.
var resources = map[string][]documented{
	localCommand: append([]documented{
		{name: "dir", value: "/", empty: ""},
		{name: "interpreter", value: []any{"/bin/sh", "-c"}, empty: []any{}}, // its text says "defaults to: [/bin/sh, -c]"
	}, command...),
	remoteCommand: command,
}

// variants are what a program may set of an input, and what the published plugin's state then has.
var variants = map[string]func(documented) (set, stored any){
	"nothing":              func(d documented) (any, any) { return nil, d.unset },
	"an empty value":       func(d documented) (any, any) { return d.empty, d.empty },
	"another value":        func(d documented) (any, any) { return d.value, d.value },
	"a documented default": func(d documented) (any, any) { return d.unset, d.unset },
}

// fill is what a program sets of all, and what is then stored.
func fill(all []documented, variant func(documented) (set, stored any)) (set, stored inputs) {
	set, stored = inputs{}, inputs{}
	for _, input := range all {
		given, kept := variant(input)
		if given != nil {
			set[input.name] = given
		}
		if kept != nil && input.secret {
			stored[input.name] = secret{kept}
		} else if kept != nil {
			stored[input.name] = kept
		}
	}
	return set, stored
}

// program is what a program sets of a resource with this token, and what is then stored.
func program(token string, variant func(documented) (set, stored any)) (set, stored inputs) {
	set, stored = fill(resources[token], variant)
	if token == remoteCommand {
		connection, storedConnection := fill(endpoint, variant)
		proxy, storedProxy := fill(endpoint, variant)
		set["connection"] = connection.with(inputs{"host": "h", "proxy": proxy.with(inputs{"host": "b"})})
		stored["connection"] = secret{storedConnection.with(inputs{
			"host": "h", "proxy": storedProxy.with(inputs{"host": "b"}),
		})}
	}
	return set, stored
}

func TestInputsAreStoredAsByThePublishedPlugin(t *testing.T) {
	for token := range resources {
		for name, variant := range variants {
			t.Run(token+" sets "+name, func(t *testing.T) {
				set, stored := program(token, variant)
				assertSame(t, toMap(t, stored), newEngine(t, token).checked(set))
			})
		}
	}
}

func TestOutputsAreTheInputsAndWhatWasPrinted(t *testing.T) {
	server := newServer(t)
	server.AcceptEnv = []string{"NAME"}
	server.Start(t)
	for token := range resources {
		for name, variant := range variants {
			t.Run(token+" sets "+name, func(t *testing.T) {
				set, stored := program(token, variant)
				step := newEngine(t, token)
				want := inputs{"stdout": "", "stderr": ""}
				if token == remoteCommand {
					set["connection"] = server.connection(nil)
					stored["connection"] = secret{server.connection(inputs{
						"perDialTimeout": 15.0, "privateKey": secret{server.Key},
					})}
				}
				if token == localCommand {
					delete(set, "dir") // an empty one is refused by the kernel
					delete(stored, "dir")
				}
				require.NoError(t, step.create(set, 0))
				assertSame(t, toMap(t, stored.with(want)), step.state)

				set["stdin"], stored["stdin"] = "more", "more"
				require.NoError(t, step.update(set))
				assertSame(t, toMap(t, stored.with(want)), step.state)
			})
		}
	}
}

func TestAStateIsUnchangedWhetherOrNotItHasTheDefaultOfOlderBuilds(t *testing.T) {
	server := newServer(t).Start(t)
	connection := inputs{"connection": server.connection(nil)}
	for token, in := range map[string]inputs{
		localCommand:  {"create": "true"},
		remoteCommand: connection.with(inputs{"create": "true"}),
	} {
		t.Run(token, func(t *testing.T) {
			step := newEngine(t, token)
			require.NoError(t, step.create(in, 0))
			changed, _ := step.diff(in)
			assert.False(t, changed, "the published plugin's state")

			for _, old := range []*property.Map{&step.state, &step.old} {
				*old = old.Set("addPreviousOutputInEnv", property.New(true))
			}
			changed, _ = step.diff(in)
			assert.False(t, changed, "an older build's state")
			changed, _ = step.diff(in.with(inputs{"addPreviousOutputInEnv": true}))
			assert.False(t, changed, "an older build's state, and a program that sets the default")
			changed, _ = step.diff(in.with(inputs{"addPreviousOutputInEnv": false}))
			assert.True(t, changed)
			changed, _ = step.diff(in.with(inputs{"stdin": "new"}))
			assert.True(t, changed)
		})
	}
}

func TestTheTablesHaveEveryInput(t *testing.T) {
	content, err := os.ReadFile("testdata/sdk-names.json")
	require.NoError(t, err)
	var sdk map[string]struct{ Inputs map[string]any }
	require.NoError(t, json.Unmarshal(content, &sdk))
	listed := func(all []documented, more ...string) []string {
		for _, input := range all {
			more = append(more, input.name)
		}
		return more
	}
	keys := func(all any) []string {
		var names []string
		for name := range all.(map[string]any) {
			names = append(names, name)
		}
		return names
	}

	want := keys(sdk[localCommand].Inputs)
	want = slices.DeleteFunc(want, func(name string) bool { return slices.Contains(omitted[localCommand], name) })
	assert.ElementsMatch(t, want, listed(resources[localCommand]))

	remote := sdk[remoteCommand].Inputs
	assert.ElementsMatch(t, keys(remote), listed(resources[remoteCommand], "connection"))
	connection := remote["connection"].(map[string]any)
	assert.ElementsMatch(t, keys(connection), listed(endpoint, "host", "proxy"))
	assert.ElementsMatch(t, keys(connection["proxy"]), listed(endpoint, "host"))
}

// assertSame compares two maps byte for byte, as a state would have them.
func assertSame(t *testing.T, want, got property.Map) {
	t.Helper()
	assert.Equal(t, resource.ToResourcePropertyValue(property.New(want)), resource.ToResourcePropertyValue(property.New(got)))
}
