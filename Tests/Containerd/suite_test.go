package containerd

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/content/local"
	"github.com/containerd/containerd/metadata"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	bolt "go.etcd.io/bbolt"
)

// TestDirect: the suite on lamina, as containerd speaks to a proxy plugin.
func TestDirect(t *testing.T) {
	testsuite.SnapshotterSuite(t, "lamina", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		s, err := start(root)
		if err != nil {
			return nil, nil, err
		}
		return proxy.NewSnapshotter(s.client, "lamina"), s.stop, nil
	})
}

// TestMetadata: the same with containerd's metadata between, as in production: namespaces, and names of its own.
func TestMetadata(t *testing.T) {
	testsuite.SnapshotterSuite(t, "metadata", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		s, err := start(filepath.Join(root, "lamina"))
		if err != nil {
			return nil, nil, err
		}
		contents, err := local.NewStore(filepath.Join(root, "content"))
		if err != nil {
			return nil, nil, err
		}
		database, err := bolt.Open(filepath.Join(root, "meta.db"), 0600, nil)
		if err != nil {
			return nil, nil, err
		}
		db := metadata.NewDB(database, contents, map[string]snapshots.Snapshotter{
			"lamina": proxy.NewSnapshotter(s.client, "lamina"),
		})
		if err := db.Init(ctx); err != nil {
			return nil, nil, err
		}
		return db.Snapshotter("lamina"), func() error {
			if err := database.Close(); err != nil {
				return err
			}
			return s.stop()
		}, nil
	})
}
