// unpack DIRECTORY LAYER [PARENT...]: applies a layer as containerd's differ does for overlayfs, with containerd's own code. The lowest
// layer is applied as it is (whiteouts take away); one with parents becomes what overlayfs reads (whiteouts are devices). A line
// from standard input is such a command each, its words separated by tabs; a line "ok" or why it failed is the answer.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/containerd/archive"
	"github.com/containerd/containerd/archive/compression"
)

func unpack(directory, layer string, parents []string) error {
	file, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer file.Close()
	stream, err := compression.DecompressStream(file)
	if err != nil {
		return err
	}
	defer stream.Close()
	if err := os.Mkdir(directory, 0755); err != nil {
		return err
	}
	var options []archive.ApplyOpt
	if len(parents) > 0 {
		options = append(options, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(parents))
	}
	if _, err := archive.Apply(context.Background(), directory, stream, options...); err != nil {
		return err
	}
	// As diff/apply does: what follows must at least decompress.
	_, err = io.Copy(io.Discard, stream)
	return err
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Split(lines.Text(), "\t")
		if err := unpack(words[0], words[1], words[2:]); err != nil {
			fmt.Println(strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println("ok")
		}
	}
}
