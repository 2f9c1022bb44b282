// Package lifecycle is what local and remote commands share: the inputs that say what runs when, and the outputs with
// what it printed.
package lifecycle

import (
	"context"
	"errors"
	"fmt"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
)

// Inputs are the inputs of every command resource.
type Inputs struct {
	Triggers    *[]any            `pulumi:"triggers,optional" provider:"replaceOnChanges"`
	Create      *string           `pulumi:"create,optional"`
	Update      *string           `pulumi:"update,optional"`
	Delete      *string           `pulumi:"delete,optional"`
	Stdin       *string           `pulumi:"stdin,optional"`
	Environment map[string]string `pulumi:"environment,optional"`
	Logging     *Logging          `pulumi:"logging,optional"`
	// AddPreviousOutputInEnv is true where it is nil. It has no default in the schema, because a default would be part
	// of the state, and the published plugin has none: a stack would change when it moves from one to the other.
	AddPreviousOutputInEnv *bool `pulumi:"addPreviousOutputInEnv,optional"`
}

// OnUpdate is the command that updates a changed resource, or nil if there is none.
func (i *Inputs) OnUpdate() *string {
	if i.Update != nil {
		return i.Update
	}
	return i.Create
}

// Outputs are the outputs of every command resource: what the last create or update printed, without the last newline.
type Outputs struct {
	Stdout string `pulumi:"stdout"`
	Stderr string `pulumi:"stderr"`
}

// PreviousEnvironment passes the last command's output to the next one. Empty output is not passed on.
func (i *Inputs) PreviousEnvironment(last Outputs) map[string]string {
	environment := map[string]string{}
	if i.AddPreviousOutputInEnv != nil && !*i.AddPreviousOutputInEnv {
		return environment
	}
	if last.Stdout != "" {
		environment["PULUMI_COMMAND_STDOUT"] = last.Stdout
	}
	if last.Stderr != "" {
		environment["PULUMI_COMMAND_STDERR"] = last.Stderr
	}
	return environment
}

// NewID generates the id of a new resource: its name and eight random hexadecimal digits.
func NewID(name string) (string, error) {
	return resource.NewUniqueHex(name, 8, 0)
}

// Failure is the error of a command that ended with err. It quotes the command and its output after hide.
func Failure(err error, command, output string, hide func(string) string) error {
	return fmt.Errorf("%w: running %q:\n%s", err, hide(command), hide(output))
}

// Stopped is the reason why ctx, the context of a request, is done. Call it only when it is.
func Stopped(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errors.New("timed out (the resource's custom timeout)")
	}
	return errors.New("cancelled")
}
