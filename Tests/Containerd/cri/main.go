// cri speaks CRI, as kubelet does: images at one socket, pods at another. It is also what the test's sandbox image has for a pause
// program: `cri pause` waits to be ended.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

const usage = `cri IMAGE-SOCKET RUNTIME-SOCKET COMMAND
  pull IMAGE [USER PASSWORD]     prints the image's reference
  image IMAGE                    prints its ID; nothing where there is none
  images                         prints the tags of all
  filesystem                     prints where images are
  remove-image IMAGE
  run-pod NAME LOGS              starts a pod in the host's network; prints its ID
  run POD NAME LOGS IMAGE WORD…  starts a container in it; prints its ID
  exec CONTAINER WORD…           prints what the words print, and ends as they end
  state CONTAINER                prints created, running, exited or unknown, and the exit code
  stop CONTAINER
  remove CONTAINER
  stop-pod POD
  remove-pod POD
  pods                           prints the IDs of all`

// client calls methods of the version that kubelet speaks.
type client struct {
	images, runtime *grpc.ClientConn
	version         string
}

func (c client) call(connection *grpc.ClientConn, service, method string, request ...field) (reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	var answer []byte
	path := "/runtime." + c.version + "." + service + "/" + method
	// A server that is just being replaced is waited for, as kubelet's next attempt would find it.
	err := connection.Invoke(ctx, path, message(request...), &answer, grpc.ForceCodec(raw{}), grpc.WaitForReady(true),
		grpc.MaxCallRecvMsgSize(16<<20))
	return reply(answer), err
}

func (c client) image(method string, request ...field) (reply, error) {
	return c.call(c.images, "ImageService", method, request...)
}

func (c client) pod(method string, request ...field) (reply, error) {
	return c.call(c.runtime, "RuntimeService", method, request...)
}

// podConfig is a PodSandboxConfig: a pod in the host's network, so that nothing has to set up one.
func podConfig(name, logs string) []field {
	const node = 2
	return []field{
		nested(1, text(1, name), text(2, name+"-uid"), text(3, "default")), // metadata: name, uid, namespace
		text(3, logs), // log_directory
		nested(8, // linux
			nested(2, // security_context
				nested(1, number(1, node)))), // namespace_options: network
	}
}

func run(c client, words []string) (string, error) {
	command, words := words[0], words[1:]
	spec := func(image string) field { return nested(1, text(1, image)) }
	switch {
	case command == "pull" && (len(words) == 1 || len(words) == 3):
		request := []field{spec(words[0])}
		if len(words) == 3 {
			request = append(request, nested(2, text(1, words[1]), text(2, words[2])))
		}
		answer, err := c.image("PullImage", request...)
		return answer.text(1), err
	case command == "image" && len(words) == 1:
		answer, err := c.image("ImageStatus", spec(words[0]))
		return answer.nested(1).text(1), err
	case command == "images" && len(words) == 0:
		answer, err := c.image("ListImages")
		tags := ""
		for _, image := range answer.all(1) {
			for _, tag := range reply(image).all(2) {
				tags += string(tag) + "\n"
			}
		}
		return tags, err
	case command == "filesystem" && len(words) == 0:
		answer, err := c.image("ImageFsInfo")
		return answer.nested(1).nested(2).text(1), err // image_filesystems: fs_id: mountpoint
	case command == "remove-image" && len(words) == 1:
		_, err := c.image("RemoveImage", spec(words[0]))
		return "", err
	case command == "run-pod" && len(words) == 2:
		answer, err := c.pod("RunPodSandbox", nested(1, podConfig(words[0], words[1])...))
		return answer.text(1), err
	case command == "run" && len(words) > 4:
		config := []field{
			nested(1, text(1, words[1])), // metadata: name
			nested(2, text(1, words[3])), // image
			text(11, words[1]+".log"),    // log_path
		}
		for _, word := range words[4:] {
			config = append(config, text(3, word)) // command
		}
		created, err := c.pod("CreateContainer",
			text(1, words[0]), nested(2, config...), nested(3, podConfig(words[1], words[2])...))
		if err != nil {
			return "", err
		}
		_, err = c.pod("StartContainer", text(1, created.text(1)))
		return created.text(1), err
	case command == "exec" && len(words) > 1:
		request := []field{text(1, words[0])}
		for _, word := range words[1:] {
			request = append(request, text(2, word))
		}
		answer, err := c.pod("ExecSync", append(request, number(3, 60))...)
		if code := answer.number(3); err == nil && code != 0 {
			err = fmt.Errorf("exit code %d: %s%s", code, answer.text(1), answer.text(2))
		}
		return answer.text(1), err
	case command == "state" && len(words) == 1:
		answer, err := c.pod("ContainerStatus", text(1, words[0]))
		if err != nil {
			return "", err
		}
		states := []string{"created", "running", "exited", "unknown"}
		container := answer.nested(1)
		return states[container.number(3)%4] + " " + strconv.FormatUint(container.number(7), 10), nil
	case command == "stop" && len(words) == 1:
		_, err := c.pod("StopContainer", text(1, words[0]), number(2, 1))
		return "", err
	case command == "remove" && len(words) == 1:
		_, err := c.pod("RemoveContainer", text(1, words[0]))
		return "", err
	case command == "stop-pod" && len(words) == 1:
		_, err := c.pod("StopPodSandbox", text(1, words[0]))
		return "", err
	case command == "pods" && len(words) == 0:
		answer, err := c.pod("ListPodSandbox")
		pods := ""
		for _, pod := range answer.all(1) {
			pods += reply(pod).text(1) + "\n"
		}
		return pods, err
	case command == "remove-pod" && len(words) == 1:
		_, err := c.pod("RemovePodSandbox", text(1, words[0]))
		return "", err
	}
	return "", fmt.Errorf("%s", usage)
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "pause" {
		ends := make(chan os.Signal, 1)
		signal.Notify(ends, syscall.SIGINT, syscall.SIGTERM)
		<-ends
		return
	}
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(64)
	}
	dial := func(socket string) *grpc.ClientConn {
		connection, err := grpc.Dial("unix://"+socket, grpc.WithInsecure())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return connection
	}
	c := client{images: dial(os.Args[1]), runtime: dial(os.Args[2]), version: "v1"}
	if version := os.Getenv("CRI_VERSION"); version != "" {
		c.version = version
	}
	output, err := run(c, os.Args[3:])
	fmt.Print(output)
	if err != nil {
		// With the code, which is what its callers go by.
		fmt.Fprintln(os.Stderr, status.Code(err), err)
		os.Exit(1)
	}
}
