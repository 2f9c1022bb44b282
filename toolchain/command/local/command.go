// Package local runs commands on the machine that runs Pulumi.
package local

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/pulumi/pulumi-go-provider/infer"

	"openstack-ha-api/toolchain/command/lifecycle"
)

// killGrace is how long a stopped command's children may hold on to its output.
const killGrace = 5 * time.Second

// Command is the resource command:local:Command.
type Command struct{}

// CommandInputs are its inputs.
type CommandInputs struct {
	lifecycle.Inputs
	Interpreter *[]string `pulumi:"interpreter,optional"`
	Dir         *string   `pulumi:"dir,optional"`
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

// run runs command, unless it is nil, and keeps its output in s.
func (s *CommandOutputs) run(ctx context.Context, command *string) error {
	if command == nil {
		return nil
	}
	argv := []string{"/bin/sh", "-c"}
	if s.Interpreter != nil && len(*s.Interpreter) > 0 {
		argv = append([]string{}, *s.Interpreter...)
	}
	argv = append(argv, *command)

	process := exec.CommandContext(ctx, argv[0], argv[1:]...)
	process.WaitDelay = killGrace
	if s.Dir != nil {
		process.Dir = *s.Dir
	}
	process.Env = os.Environ()
	for _, variables := range []map[string]string{s.Environment, s.PreviousEnvironment(s.Outputs)} {
		for name, value := range variables {
			process.Env = append(process.Env, name+"="+value)
		}
	}
	if s.Stdin != nil {
		process.Stdin = strings.NewReader(*s.Stdin)
	}
	hide := s.Hider()
	capture := lifecycle.NewCapture(ctx, s.Logging, hide)
	process.Stdout, process.Stderr = capture.Stdout, capture.Stderr

	err := process.Run()
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
