package containerd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc"
)

// server is a lamina of its own, on a fresh store.
type server struct {
	root       string
	address    string
	process    *exec.Cmd
	connection *grpc.ClientConn
	client     snapshotsapi.SnapshotsClient
}

// start starts lamina on a directory, with options if need be, and waits until it answers.
func start(root string, options ...string) (*server, error) {
	binary := os.Getenv("LAMINA_BINARY")
	if binary == "" {
		return nil, fmt.Errorf("LAMINA_BINARY does not say what to test")
	}
	s := &server{root: root, address: filepath.Join(root, "containerd.sock")}
	words := append([]string{"serve", "--root", root, "--address", s.address, "--log-level", "warn"}, options...)
	s.process = exec.Command(binary, words...)
	s.process.Stdout, s.process.Stderr = os.Stdout, os.Stderr
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := s.process.Start(); err != nil {
		return nil, err
	}
	connection, err := grpc.Dial("unix://"+s.address, grpc.WithInsecure())
	if err != nil {
		return nil, err
	}
	s.connection, s.client = connection, snapshotsapi.NewSnapshotsClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for {
		_, err := s.client.Cleanup(ctx, &snapshotsapi.CleanupRequest{})
		if err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			s.stop()
			return nil, fmt.Errorf("lamina does not answer: %w", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// stop ends lamina and its mounts.
func (s *server) stop() error {
	if s.connection != nil {
		s.connection.Close()
	}
	if err := s.process.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return s.process.Wait()
}

// shared is a server for a test of several steps.
func shared(t *testing.T) *server {
	t.Helper()
	directory, err := os.MkdirTemp("", "lamina-protocol-")
	if err != nil {
		t.Fatal(err)
	}
	s, err := start(filepath.Join(directory, "root"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("lamina ends badly: %v", err)
		}
		os.RemoveAll(directory)
	})
	return s
}
