package remote

import (
	"context"
	"fmt"
	"strings"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"

	"openstack-ha-api/toolchain/command/lifecycle"
)

// Command is the resource command:remote:Command.
type Command struct{}

// CommandInputs are its inputs.
type CommandInputs struct {
	lifecycle.Inputs
	Connection *Connection `pulumi:"connection" provider:"secret"`
}

// CommandOutputs are its inputs and outputs.
type CommandOutputs struct {
	CommandInputs
	lifecycle.Outputs
}

// Create runs the create command, if there is one.
func (*Command) Create(
	ctx context.Context, request infer.CreateRequest[CommandInputs],
) (infer.CreateResponse[CommandOutputs], error) {
	state := CommandOutputs{CommandInputs: request.Inputs}
	id, err := lifecycle.NewID(request.Name)
	if err == nil && !request.DryRun {
		err = state.run(ctx, state.Create)
	}
	return infer.CreateResponse[CommandOutputs]{ID: id, Output: state}, err
}

// Update runs the update command or, without one, the create command again.
func (*Command) Update(
	ctx context.Context, request infer.UpdateRequest[CommandInputs, CommandOutputs],
) (infer.UpdateResponse[CommandOutputs], error) {
	state := CommandOutputs{CommandInputs: request.Inputs, Outputs: request.State.Outputs}
	var err error
	if !request.DryRun {
		err = state.run(ctx, state.OnUpdate())
	}
	return infer.UpdateResponse[CommandOutputs]{Output: state}, err
}

// Delete runs the delete command, if there is one.
func (*Command) Delete(
	ctx context.Context, request infer.DeleteRequest[CommandOutputs],
) (infer.DeleteResponse, error) {
	state := request.State
	return infer.DeleteResponse{}, state.run(ctx, state.Delete)
}

// run runs command on the host, unless it is nil, and keeps its output in s.
func (s *CommandOutputs) run(ctx context.Context, command *string) error {
	if command == nil {
		return nil
	}
	client, err := s.Connection.Dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	// The session has no deadline of its own; a host that vanished would keep it open forever.
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	defer stop()
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	defer session.Close()

	const acceptEnv = "the SSH server must accept it (AcceptEnv); or start the command with %s=value"
	for name, value := range s.Environment {
		if err := session.Setenv(name, value); err != nil {
			return fmt.Errorf("environment variable %q cannot be set: "+acceptEnv+": %w", name, name, err)
		}
	}
	for name, value := range s.PreviousEnvironment(s.Outputs) {
		if err := session.Setenv(name, value); err != nil {
			p.GetLogger(ctx).Warningf("environment variable %q cannot be set: "+acceptEnv, name, name)
		}
	}
	if s.Stdin != nil {
		session.Stdin = strings.NewReader(*s.Stdin)
	}
	hide := s.Hider(s.Connection.secrets()...)
	capture := lifecycle.NewCapture(ctx, s.Logging, hide)
	session.Stdout, session.Stderr = capture.Stdout, capture.Stderr

	err = session.Run(*command)
	capture.Finish()
	if ctx.Err() != nil {
		err = lifecycle.Stopped(ctx)
	}
	if err != nil {
		return lifecycle.Failure(err, *command, capture.Both(), hide)
	}
	s.Outputs = capture.Outputs()
	return nil
}
