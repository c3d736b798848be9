package containerd

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// bytesCodec takes messages as they are.
type bytesCodec struct{}

func (bytesCodec) Marshal(v interface{}) ([]byte, error) { return v.([]byte), nil }

func (bytesCodec) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (bytesCodec) Name() string   { return "proto" }
func (bytesCodec) String() string { return "proto" }

// seen is what came to the server behind lamina.
type seen struct {
	method   string
	message  []byte
	metadata metadata.MD
	deadline time.Duration
}

// behind stands where containerd does, and answers with what containerd has no occasion to: metadata, trailers, and any status.
func behind(t *testing.T, socket string, calls chan seen, given chan struct{}) *grpc.Server {
	t.Helper()
	handler := func(_ interface{}, stream grpc.ServerStream) error {
		var message []byte
		if err := stream.RecvMsg(&message); err != nil {
			return err
		}
		call := seen{message: message}
		call.method, _ = grpc.MethodFromServerStream(stream)
		call.metadata, _ = metadata.FromIncomingContext(stream.Context())
		if deadline, ok := stream.Context().Deadline(); ok {
			call.deadline = time.Until(deadline)
		}
		calls <- call
		if string(message) == "wait" {
			<-stream.Context().Done()
			close(given)
			return stream.Context().Err()
		}
		if err := stream.SendHeader(metadata.Pairs("answer", "1", "answer", "2", "answer-bin", "\x00\xff")); err != nil {
			return err
		}
		stream.SetTrailer(metadata.Pairs("trailer", "end", "trailer-bin", "\xfe"))
		if string(message) == "refuse" {
			return status.Error(codes.ResourceExhausted, "too much: 100 % of ünïcode\nand a line")
		}
		return stream.SendMsg(append([]byte("answer to "), message...))
	}
	listener, err := net.Listen("unix", socket)
	must(t, err)
	server := grpc.NewServer(grpc.UnknownServiceHandler(handler), grpc.CustomCodec(bytesCodec{}), grpc.MaxRecvMsgSize(16<<20))
	go server.Serve(listener)
	return server
}

// Of a call of the image service nothing is changed on its way to containerd and back.
func TestImageServicePassesOn(t *testing.T) {
	directory, err := os.MkdirTemp("", "lamina-images-")
	must(t, err)
	defer os.RemoveAll(directory)
	socket := filepath.Join(directory, "containerd.sock")
	calls, given := make(chan seen, 10), make(chan struct{})
	server := behind(t, socket, calls, given)
	s, err := start(filepath.Join(directory, "root"),
		"--set", "cri_keychain.enable_keychain=true", "--set", "cri_keychain.image_service_path="+socket)
	must(t, err)
	defer func() { must(t, s.stop()) }()

	invoke := func(ctx context.Context, method, message string, options ...grpc.CallOption) (string, error) {
		var answer []byte
		options = append(options, grpc.ForceCodec(bytesCodec{}), grpc.MaxCallRecvMsgSize(16<<20))
		err := s.connection.Invoke(ctx, method, []byte(message), &answer, options...)
		return string(answer), err
	}
	limited := func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "key", "1", "key", "2", "key-bin", "\x00\x80"), 20*time.Second)
	}

	for _, service := range []string{"/runtime.v1.ImageService/", "/runtime.v1alpha2.ImageService/"} {
		for _, method := range []string{"ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo"} {
			for _, refused := range []bool{false, true} {
				ctx, cancel := limited()
				message := "any\x00bytes"
				if refused {
					message = "refuse"
				}
				var header, trailer metadata.MD
				answer, err := invoke(ctx, service+method, message, grpc.Header(&header), grpc.Trailer(&trailer))
				cancel()
				call := <-calls
				if call.method != service+method || string(call.message) != message {
					t.Fatalf("%s came as %s with %q", method, call.method, call.message)
				}
				if !reflect.DeepEqual(call.metadata["key"], []string{"1", "2"}) || !reflect.DeepEqual(call.metadata["key-bin"], []string{"\x00\x80"}) {
					t.Fatalf("%s came with %q", method, call.metadata)
				}
				if call.deadline < 10*time.Second || call.deadline > 20*time.Second {
					t.Fatalf("%s came with %v left of 20 s", method, call.deadline)
				}
				if !reflect.DeepEqual(header["answer"], []string{"1", "2"}) || !reflect.DeepEqual(header["answer-bin"], []string{"\x00\xff"}) {
					t.Fatalf("%s was answered with %q", method, header)
				}
				if !reflect.DeepEqual(trailer["trailer"], []string{"end"}) || !reflect.DeepEqual(trailer["trailer-bin"], []string{"\xfe"}) {
					t.Fatalf("%s ended with %q", method, trailer)
				}
				if refused {
					refuses(t, err, codes.ResourceExhausted)
					if status.Convert(err).Message() != "too much: 100 % of ünïcode\nand a line" {
						t.Fatalf("%s was refused as %q", method, err)
					}
				} else if must(t, err); answer != "answer to "+message {
					t.Fatalf("%s was answered %q", method, answer)
				}
			}
		}
	}

	// What neither side of gRPC takes without being told.
	large := strings.Repeat("x", 9<<20)
	limit, cancel := limited()
	answer, err := invoke(limit, "/runtime.v1.ImageService/ListImages", large, grpc.MaxCallSendMsgSize(16<<20))
	cancel()
	must(t, err)
	if <-calls; answer != "answer to "+large {
		t.Fatalf("of 9 MiB %d bytes came back", len(answer))
	}

	// Who gives a call up gives it up at containerd.
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	_, err = invoke(short, "/runtime.v1.ImageService/PullImage", "wait")
	cancel()
	refuses(t, err, codes.DeadlineExceeded)
	<-calls
	select {
	case <-given:
	case <-time.After(10 * time.Second):
		t.Fatal("a call that was given up goes on")
	}

	// Others are not passed on.
	_, err = invoke(ctx, "/runtime.v1.RuntimeService/Version", "")
	refuses(t, err, codes.Unimplemented)

	// Without containerd; and with the next one.
	server.Stop()
	_, err = invoke(ctx, "/runtime.v1.ImageService/ListImages", "")
	refuses(t, err, codes.Unavailable)
	if !strings.Contains(err.Error(), socket) {
		t.Fatalf("who does not answer: %v", err)
	}
	os.Remove(socket)
	server = behind(t, socket, calls, given)
	defer server.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err = invoke(ctx, "/runtime.v1.ImageService/ListImages", ""); err == nil {
			break
		}
		refuses(t, err, codes.Unavailable)
		if time.Now().After(deadline) {
			t.Fatalf("the next containerd is not found: %v", err)
		}
	}
}

// Nobody is offered it who has not asked for it.
func TestImageServiceIsOff(t *testing.T) {
	s := shared(t)
	var answer []byte
	err := s.connection.Invoke(ctx, "/runtime.v1.ImageService/ListImages", []byte{}, &answer, grpc.ForceCodec(bytesCodec{}))
	refuses(t, err, codes.Unimplemented)
}
