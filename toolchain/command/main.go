// Command pulumi-resource-command is a provider for Pulumi that runs commands on this machine and, over SSH, on others.
//
// It serves programs of the pulumi-command SDK of version sdkVersion, with the published plugin's semantics, for the
// resources that this project uses. docs/toolchain.md lists the differences.
package main

import (
	"context"
	"fmt"
	"os"
)

// sdkVersion is the release of the pulumi-command SDK whose programs this plugin serves. The engine requests the
// plugin by this version.
const sdkVersion = "1.2.1"

func main() {
	plugin, err := newProvider()
	if err == nil {
		err = plugin.Run(context.Background(), "command", sdkVersion)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pulumi-resource-command:", err)
		os.Exit(1)
	}
}
