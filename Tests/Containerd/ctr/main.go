// ctr with a snapshotter of one's choice for every command: `ctr --snapshotter lamina images mount IMAGE DIRECTORY`.
//
// That of containerd 1.6 has a --snapshotter for each command that takes one, but its `images mount` looks for it among the flags of
// the whole program, where there is none, and so knows overlayfs only. Here there is one; the commands are containerd's own.
package main

import (
	"fmt"
	"os"

	"github.com/containerd/containerd/cmd/ctr/app"
	"github.com/urfave/cli"
)

func main() {
	ctr := app.New()
	ctr.Flags = append(ctr.Flags, cli.StringFlag{Name: "snapshotter", Usage: "what has the layers of images"})
	if err := ctr.Run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "ctr:", err)
		os.Exit(1)
	}
}
