package containerd

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	ptypes "github.com/gogo/protobuf/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var ctx = context.Background()

// must ends a test where a call that has to succeed does not.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refuses holds a call to the code that containerd takes for its own error.
func refuses(t *testing.T, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("expected %v, got %v", code, err)
	}
}

func (s *server) prepare(key, parent string, labels map[string]string) ([]*types.Mount, error) {
	answer, err := s.client.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{
		Snapshotter: "lamina", Key: key, Parent: parent, Labels: labels})
	if err != nil {
		return nil, err
	}
	return answer.Mounts, nil
}

func (s *server) view(key, parent string) ([]*types.Mount, error) {
	answer, err := s.client.View(ctx, &snapshotsapi.ViewSnapshotRequest{Snapshotter: "lamina", Key: key, Parent: parent})
	if err != nil {
		return nil, err
	}
	return answer.Mounts, nil
}

func (s *server) mounts(key string) ([]*types.Mount, error) {
	answer, err := s.client.Mounts(ctx, &snapshotsapi.MountsRequest{Snapshotter: "lamina", Key: key})
	if err != nil {
		return nil, err
	}
	return answer.Mounts, nil
}

func (s *server) commit(name, key string, labels map[string]string) error {
	_, err := s.client.Commit(ctx, &snapshotsapi.CommitSnapshotRequest{
		Snapshotter: "lamina", Name: name, Key: key, Labels: labels})
	return err
}

func (s *server) remove(key string) error {
	_, err := s.client.Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: "lamina", Key: key})
	return err
}

func (s *server) stat(key string) (snapshotsapi.Info, error) {
	answer, err := s.client.Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: "lamina", Key: key})
	if err != nil {
		return snapshotsapi.Info{}, err
	}
	return answer.Info, nil
}

// layer makes a committed snapshot.
func (s *server) layer(t *testing.T, name, parent string) {
	t.Helper()
	_, err := s.prepare(name+"-active", parent, nil)
	must(t, err)
	must(t, s.commit(name, name+"-active", nil))
}

// list is what filters let through, by name, and how many messages it came in.
func (s *server) list(filters ...string) (names []string, messages int, err error) {
	stream, err := s.client.List(ctx, &snapshotsapi.ListSnapshotsRequest{Snapshotter: "lamina", Filters: filters})
	if err != nil {
		return nil, 0, err
	}
	for {
		answer, err := stream.Recv()
		if err == io.EOF {
			sort.Strings(names)
			return names, messages, nil
		}
		if err != nil {
			return nil, 0, err
		}
		if len(answer.Info) == 0 || len(answer.Info) > 100 {
			return nil, 0, fmt.Errorf("a message of %d snapshots", len(answer.Info))
		}
		messages++
		for _, info := range answer.Info {
			names = append(names, info.Name)
		}
	}
}

func options(mount *types.Mount) string { return strings.Join(mount.Options, " ") }

func TestSocketIsForRootOnly(t *testing.T) {
	s := shared(t)
	info, err := os.Stat(s.address)
	must(t, err)
	if info.Mode().Perm() != 0600 || info.Mode()&os.ModeSocket == 0 {
		t.Fatalf("the socket has mode %v", info.Mode())
	}
}

func TestPrepare(t *testing.T) {
	s := shared(t)
	mounts, err := s.prepare("ns/1/first key", "", map[string]string{"a": "b"})
	must(t, err)
	if len(mounts) != 1 || mounts[0].Type != "bind" || options(mounts[0]) != "rw rbind" {
		t.Fatalf("without a parent: %v", mounts)
	}
	if info, err := os.Stat(mounts[0].Source); err != nil || info.Mode() != os.ModeDir|0755 {
		t.Fatalf("its directory: %v, %v", info, err)
	}
	info, err := s.stat("ns/1/first key")
	must(t, err)
	if info.Kind != snapshotsapi.KindActive || info.Parent != "" || info.Labels["a"] != "b" ||
		time.Since(info.CreatedAt) > time.Minute || time.Since(info.UpdatedAt) > time.Minute {
		t.Fatalf("it is told as %v", info)
	}
	_, err = s.prepare("child of active", "ns/1/first key", nil)
	refuses(t, err, codes.InvalidArgument)
	_, err = s.prepare("orphan", "no such", nil)
	refuses(t, err, codes.NotFound)
	_, err = s.prepare("ns/1/first key", "", nil)
	refuses(t, err, codes.AlreadyExists)
	must(t, s.commit("bottom", "ns/1/first key", nil))
	_, err = s.prepare("bottom", "", nil)
	refuses(t, err, codes.AlreadyExists)
	s.layer(t, "top", "bottom")
	mounts, err = s.prepare("container", "top", nil)
	must(t, err)
	own := filepath.Dir(strings.TrimPrefix(mounts[0].Options[1], "workdir="))
	want := []string{
		"index=off", "workdir=" + own + "/work", "upperdir=" + own + "/fs",
		"lowerdir=" + s.root + "/snapshots/2/fs:" + s.root + "/snapshots/1/fs",
	}
	if mounts[0].Type != "overlay" || mounts[0].Source != "overlay" || !reflect.DeepEqual(mounts[0].Options, want) {
		t.Fatalf("above two layers: %v, expected %v", mounts, want)
	}
	again, err := s.mounts("container")
	must(t, err)
	if !reflect.DeepEqual(again, mounts) {
		t.Fatalf("asked again: %v", again)
	}
	_, err = s.prepare("", "", nil)
	refuses(t, err, codes.InvalidArgument)
}

// The upper directory has the owner of the layer below it: overlayfs shows the topmost directory's.
func TestOwnerOfParent(t *testing.T) {
	s := shared(t)
	mounts, err := s.prepare("a", "", nil)
	must(t, err)
	must(t, os.Chown(mounts[0].Source, 5, 6))
	must(t, s.commit("owned", "a", nil))
	mounts, err = s.prepare("b", "owned", nil)
	must(t, err)
	var upper string
	for _, option := range mounts[0].Options {
		if strings.HasPrefix(option, "upperdir=") {
			upper = strings.TrimPrefix(option, "upperdir=")
		}
	}
	info, err := os.Stat(upper)
	must(t, err)
	if owner := fmt.Sprintf("%+v", info.Sys()); !strings.Contains(owner, "Uid:5 Gid:6") {
		t.Fatalf("the upper directory's owner: %s", owner)
	}
}

func TestView(t *testing.T) {
	s := shared(t)
	s.layer(t, "one", "")
	s.layer(t, "two", "one")
	mounts, err := s.view("of one", "one")
	must(t, err)
	if mounts[0].Type != "bind" || options(mounts[0]) != "ro rbind" || mounts[0].Source != s.root+"/snapshots/1/fs" {
		t.Fatalf("of one layer: %v", mounts)
	}
	mounts, err = s.view("of two", "two")
	must(t, err)
	lower := "lowerdir=" + s.root + "/snapshots/2/fs:" + s.root + "/snapshots/1/fs"
	if mounts[0].Type != "overlay" || strings.Contains(options(mounts[0]), "upperdir") || !strings.Contains(options(mounts[0]), lower) {
		t.Fatalf("of two layers: %v", mounts)
	}
	refuses(t, s.commit("never", "of two", nil), codes.FailedPrecondition)
	_, err = s.prepare("above a view", "of two", nil)
	refuses(t, err, codes.InvalidArgument)
	info, err := s.stat("of two")
	must(t, err)
	if info.Kind != snapshotsapi.KindView || info.Parent != "two" {
		t.Fatalf("it is told as %v", info)
	}
}

func TestMounts(t *testing.T) {
	s := shared(t)
	s.layer(t, "committed", "")
	_, err := s.mounts("committed")
	refuses(t, err, codes.FailedPrecondition)
	_, err = s.mounts("absent")
	refuses(t, err, codes.NotFound)
}

func TestCommit(t *testing.T) {
	s := shared(t)
	mounts, err := s.prepare("active", "", map[string]string{"of": "prepare"})
	must(t, err)
	must(t, os.WriteFile(mounts[0].Source+"/file", make([]byte, 100_000), 0644))
	before, err := s.stat("active")
	must(t, err)
	must(t, s.commit("name", "active", map[string]string{"of": "commit"}))
	_, err = s.stat("active")
	refuses(t, err, codes.NotFound)
	info, err := s.stat("name")
	must(t, err)
	if !reflect.DeepEqual(info.Labels, map[string]string{"of": "commit"}) || info.Kind != snapshotsapi.KindCommitted {
		t.Fatalf("it is told as %v", info)
	}
	if !info.CreatedAt.Equal(info.UpdatedAt) || !info.CreatedAt.After(before.CreatedAt) {
		t.Fatalf("created %v, updated %v, prepared %v", info.CreatedAt, info.UpdatedAt, before.CreatedAt)
	}
	// What is written afterwards by somebody who still has it open is not counted any more.
	must(t, os.WriteFile(mounts[0].Source+"/late", make([]byte, 100_000), 0644))
	usage, err := s.client.Usage(ctx, &snapshotsapi.UsageRequest{Snapshotter: "lamina", Key: "name"})
	must(t, err)
	if usage.Size_ < 100_000 || usage.Size_ > 150_000 || usage.Inodes != 2 {
		t.Fatalf("usage %v", usage)
	}
	refuses(t, s.commit("other", "absent", nil), codes.NotFound)
	_, err = s.prepare("second", "", nil)
	must(t, err)
	refuses(t, s.commit("name", "second", nil), codes.AlreadyExists)
	refuses(t, s.commit("other", "name", nil), codes.FailedPrecondition)
	if _, err := s.stat("second"); err != nil {
		t.Fatalf("a refused commit took its snapshot: %v", err)
	}
}

func TestRemoveAndCleanup(t *testing.T) {
	s := shared(t)
	s.layer(t, "parent", "")
	s.layer(t, "child", "parent")
	err := s.remove("parent")
	refuses(t, err, codes.FailedPrecondition)
	if !strings.Contains(err.Error(), "remove") {
		t.Fatalf("containerd looks for the word remove in: %v", err)
	}
	must(t, s.remove("child"))
	refuses(t, s.remove("child"), codes.NotFound)
	// The key is free at once, before anything was cleaned up.
	_, err = s.prepare("child", "parent", nil)
	must(t, err)
	must(t, s.remove("child"))
	must(t, s.remove("parent"))
	_, err = s.client.Cleanup(ctx, &snapshotsapi.CleanupRequest{Snapshotter: "lamina"})
	must(t, err)
	left, err := os.ReadDir(s.root + "/snapshots")
	must(t, err)
	if len(left) != 0 {
		t.Fatalf("left after cleanup: %v", left)
	}
}

func TestUsageOfActive(t *testing.T) {
	s := shared(t)
	mounts, err := s.prepare("active", "", nil)
	must(t, err)
	must(t, os.WriteFile(mounts[0].Source+"/file", make([]byte, 1<<20), 0644))
	must(t, os.Link(mounts[0].Source+"/file", mounts[0].Source+"/linked"))
	usage, err := s.client.Usage(ctx, &snapshotsapi.UsageRequest{Snapshotter: "lamina", Key: "active"})
	must(t, err)
	if usage.Size_ < 1<<20 || usage.Size_ > 1<<20+65536 || usage.Inodes != 2 {
		t.Fatalf("a file with two names: %v", usage)
	}
	_, err = s.client.Usage(ctx, &snapshotsapi.UsageRequest{Snapshotter: "lamina", Key: "absent"})
	refuses(t, err, codes.NotFound)
	_, err = s.stat("absent")
	refuses(t, err, codes.NotFound)
}

func TestUpdate(t *testing.T) {
	s := shared(t)
	_, err := s.prepare("key", "", map[string]string{"a": "1", "b": "2", "c": "3"})
	must(t, err)
	update := func(labels map[string]string, paths ...string) (snapshotsapi.Info, error) {
		// With the junk that containerd sends: a kind, and times of the year 1.
		request := &snapshotsapi.UpdateSnapshotRequest{
			Snapshotter: "lamina",
			Info:        snapshotsapi.Info{Name: "key", Kind: snapshotsapi.KindCommitted, Labels: labels},
		}
		if paths != nil {
			request.UpdateMask = &ptypes.FieldMask{Paths: paths}
		}
		answer, err := s.client.Update(ctx, request)
		if err != nil {
			return snapshotsapi.Info{}, err
		}
		return answer.Info, nil
	}
	before, err := s.stat("key")
	must(t, err)
	for _, step := range []struct {
		labels map[string]string
		paths  []string
		want   map[string]string
	}{
		{map[string]string{"a": "new", "b": "not asked for"}, []string{"labels.a"}, map[string]string{"a": "new", "b": "2", "c": "3"}},
		{map[string]string{"b": ""}, []string{"labels.b", "labels.c"}, map[string]string{"a": "new"}},
		{map[string]string{"x.y/z": "dots"}, []string{"labels.x.y/z"}, map[string]string{"a": "new", "x.y/z": "dots"}},
		{map[string]string{"d": "4"}, nil, map[string]string{"d": "4"}},
		{map[string]string{"e": "5"}, []string{"labels"}, map[string]string{"e": "5"}},
		{nil, []string{"labels"}, nil},
	} {
		info, err := update(step.labels, step.paths...)
		must(t, err)
		if len(info.Labels) != len(step.want) || len(step.want) > 0 && !reflect.DeepEqual(info.Labels, step.want) {
			t.Fatalf("%v by %v: %v, expected %v", step.labels, step.paths, info.Labels, step.want)
		}
		if info.Kind != snapshotsapi.KindActive || !info.CreatedAt.Equal(before.CreatedAt) || !info.UpdatedAt.After(before.UpdatedAt) {
			t.Fatalf("more than labels changed: %v, was %v", info, before)
		}
	}
	_, err = update(nil, "parent")
	refuses(t, err, codes.InvalidArgument)
	_, err = update(map[string]string{"a": "1"}, "labels.a", "kind")
	refuses(t, err, codes.InvalidArgument)
	_, err = s.client.Update(ctx, &snapshotsapi.UpdateSnapshotRequest{Info: snapshotsapi.Info{Name: "absent"}})
	refuses(t, err, codes.NotFound)
}

func TestList(t *testing.T) {
	s := shared(t)
	if names, messages, err := s.list(); err != nil || len(names) != 0 || messages != 0 {
		t.Fatalf("of nothing: %v in %d messages, %v", names, messages, err)
	}
	_, err := s.prepare("base-active", "", nil)
	must(t, err)
	must(t, s.commit("ns/1/base layer", "base-active", map[string]string{"containerd.io/snapshot.ref": "sha256:aa"}))
	_, err = s.prepare("work", "ns/1/base layer", map[string]string{"color": "red", "a.b": "dotted", "empty": ""})
	must(t, err)
	_, err = s.view("look", "ns/1/base layer")
	must(t, err)
	all := []string{"look", "ns/1/base layer", "work"}
	for _, test := range []struct {
		filters []string
		want    []string
	}{
		{nil, all},
		{[]string{""}, all},
		{[]string{`labels."containerd.io/snapshot.ref"==sha256:aa,parent==""`}, all[1:2]},
		{[]string{`labels."containerd.io/snapshot.ref"==sha256:aa,parent=="ns/1/base layer"`}, nil},
		{[]string{`labels."containerd.io/snapshot.ref"==sha256:bb`}, nil},
		{[]string{`labels."containerd.io/snapshot.ref"==sha256:aa`, "kind==view"}, all[:2]},
		{[]string{`parent!=""`}, []string{"look", "work"}},
		{[]string{`parent=="ns/1/base layer",kind==active`}, all[2:]},
		{[]string{"kind==active", "kind==view"}, []string{"look", "work"}},
		{[]string{"kind!=committed,name!=work"}, all[:1]},
		{[]string{"labels.color"}, all[2:]},
		{[]string{"labels.empty"}, all[2:]},
		{[]string{"labels.absent"}, nil},
		{[]string{"labels.absent!=x"}, all},
		{[]string{"labels.absent=="}, nil},
		{[]string{"labels.a.b==dotted"}, all[2:]},
		{[]string{`labels."a.b"==dotted`}, all[2:]},
		{[]string{`name~="^(wo|lo)"`}, []string{"look", "work"}},
		{[]string{"name~=/base.*$/"}, all[1:2]},
		{[]string{"name~=|/[0-9]/|"}, all[1:2]},
		{[]string{`name~=[`}, nil},
		{[]string{`unknown`}, nil},
		{[]string{`name=="\x77ork"`}, all[2:]},
	} {
		names, _, err := s.list(test.filters...)
		if strings.HasSuffix(strings.Join(test.filters, ""), "absent==") {
			// A comparison with nothing is a mistake, which containerd refuses too.
			refuses(t, err, codes.InvalidArgument)
			continue
		}
		must(t, err)
		if len(names) != len(test.want) || len(names) > 0 && !reflect.DeepEqual(names, test.want) {
			t.Errorf("%q: %v, expected %v", test.filters, names, test.want)
		}
	}
	for _, filter := range []string{`name=`, `==x`, `name=="unfinished`, `name==/x/`, `name==a,`, `name=~x`, "name==\"a\nb\""} {
		_, _, err := s.list(filter)
		refuses(t, err, codes.InvalidArgument)
	}
	for i := 0; i < 250; i++ {
		_, err := s.prepare(fmt.Sprintf("many %d", i), "", nil)
		must(t, err)
	}
	names, messages, err := s.list(`name~="^many"`)
	must(t, err)
	if len(names) != 250 || messages < 3 {
		t.Fatalf("%d snapshots in %d messages", len(names), messages)
	}
}

// A slow reader of a List holds nothing that others wait for.
func TestListHoldsNoLock(t *testing.T) {
	s := shared(t)
	for i := 0; i < 300; i++ {
		_, err := s.prepare(fmt.Sprintf("k%d", i), "", map[string]string{"big": strings.Repeat("x", 4000)})
		must(t, err)
	}
	stream, err := s.client.List(ctx, &snapshotsapi.ListSnapshotsRequest{Snapshotter: "lamina"})
	must(t, err)
	_, err = stream.Recv()
	must(t, err)
	limited, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err = s.client.Remove(limited, &snapshotsapi.RemoveSnapshotRequest{Key: "k299"})
	must(t, err)
}

// Of many who ask for one key at once one has it.
func TestManyCallersOnOneKey(t *testing.T) {
	s := shared(t)
	for _, call := range []func() error{
		func() error { _, err := s.prepare("key", "", nil); return err },
		func() error { return s.commit("name", "key", nil) },
		func() error { return s.remove("name") },
	} {
		var group sync.WaitGroup
		results := make([]error, 20)
		for i := range results {
			group.Add(1)
			go func(i int) {
				defer group.Done()
				results[i] = call()
			}(i)
		}
		group.Wait()
		succeeded := 0
		for _, err := range results {
			switch status.Code(err) {
			case codes.OK:
				succeeded++
			case codes.AlreadyExists, codes.NotFound:
			default:
				t.Fatalf("unexpected: %v", err)
			}
		}
		if succeeded != 1 {
			t.Fatalf("%d of 20 succeeded: %v", succeeded, results)
		}
	}
}

// An offer without a layer that could be mounted is an ordinary snapshot, and why is on record.
func TestRefusedOffer(t *testing.T) {
	s := shared(t)
	mounts, err := s.prepare("extract-1", "", map[string]string{"containerd.io/snapshot.ref": "sha256:cc"})
	must(t, err)
	if mounts[0].Type != "bind" {
		t.Fatalf("mounts %v", mounts)
	}
	must(t, s.commit("unpacked", "extract-1", map[string]string{"containerd.io/snapshot.ref": "sha256:cc"}))
	_, err = s.prepare("extract-2", "unpacked", map[string]string{
		"containerd.io/snapshot.ref":                     "sha256:dd",
		"containerd.io/snapshot/remote/stargz.reference": "127.0.0.1:1/none:latest",
		"containerd.io/snapshot/remote/stargz.digest":    "sha256:" + strings.Repeat("0", 64),
	})
	must(t, err)
	_, err = s.prepare("extract-3", "", map[string]string{
		"containerd.io/snapshot.ref":              "sha256:ee",
		"containerd.io/snapshot/cri.image-ref":    "127.0.0.1:1/none:latest",
		"containerd.io/snapshot/cri.layer-digest": "sha256:" + strings.Repeat("0", 64),
	})
	must(t, err)
}

// What was answered is there after a restart.
func TestRestart(t *testing.T) {
	s := shared(t)
	s.layer(t, "layer", "")
	_, err := s.prepare("active", "layer", map[string]string{"l": "v"})
	must(t, err)
	before, err := s.mounts("active")
	must(t, err)
	must(t, s.process.Process.Kill())
	s.process.Wait()
	s.connection.Close()
	again, err := start(s.root)
	must(t, err)
	s.process, s.connection, s.client = again.process, again.connection, again.client
	after, err := s.mounts("active")
	must(t, err)
	if !reflect.DeepEqual(before, after) {
		t.Fatalf("mounts %v, were %v", after, before)
	}
	info, err := s.stat("active")
	must(t, err)
	if info.Parent != "layer" || info.Labels["l"] != "v" {
		t.Fatalf("it is told as %v", info)
	}
}
