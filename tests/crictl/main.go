// The image commands of crictl: the same way to dial, the same calls in the same order, and the same short ids, over
// grpc-go. Debian does not package crictl, but the library of crictl and the kubelet, in a version (1.33) that still sends
// the path of the socket as :authority.
//
//	crictl --image-endpoint unix:///run/saver.sock [--api v1|v1alpha2] [--authority NAME] COMMAND ...
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	cri "cri"

	"google.golang.org/grpc"
)

const maxMessage = 16 << 20

// The length of an id in crictl's tables.
const shortID = 13

type client struct {
	connection *grpc.ClientConn
	api        string
	timeout    time.Duration
}

func main() {
	endpoint := flag.String("image-endpoint", "", "unix:///run/saver.sock")
	api := flag.String("api", "v1", "v1 or v1alpha2")
	authority := flag.String("authority", "", "what newer clients set: localhost")
	timeout := flag.Duration("timeout", 20*time.Second, "of each call")
	flag.Parse()
	if flag.NArg() == 0 {
		fail(errors.New("no command"))
	}
	connection, err := dial(*endpoint, *authority)
	if err != nil {
		fail(err)
	}
	defer connection.Close()
	c := client{connection, *api, *timeout}
	if flag.Arg(0) == "-" {
		// One command per line, over one connection.
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			if err := c.run(strings.Fields(lines.Text())); err != nil {
				fail(err)
			}
		}
		return
	}
	if err := c.run(flag.Args()); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "FATA", err)
	os.Exit(1)
}

// Dials as crictl and the kubelet do: the address is the path, and a custom dialer connects to the Unix socket. So grpc-go
// uses the path as the authority, unless another one is set.
func dial(endpoint, authority string) (*grpc.ClientConn, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	dialler := func(ctx context.Context, address string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", address)
	}
	options := []grpc.DialOption{
		grpc.WithInsecure(),
		grpc.WithBlock(),
		grpc.WithContextDialer(dialler),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	}
	if authority != "" {
		options = append(options, grpc.WithAuthority(authority))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return grpc.DialContext(ctx, path, options...)
}

func (c client) call(method string, request, response interface{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	return c.connection.Invoke(ctx, "/runtime."+c.api+"."+method, request, response)
}

func (c client) run(arguments []string) error {
	commands := map[string]func([]string) error{
		"version": c.version, "pull": c.pull, "images": c.images, "inspecti": c.inspect,
		"rmi": c.remove, "imagefsinfo": c.imageFsInfo, "many": c.many,
	}
	command, known := commands[arguments[0]]
	if !known {
		return fmt.Errorf("no command %q", arguments[0])
	}
	if arguments[0] != "version" {
		// Every image command calls this first, to find out whether the service has this version.
		if err := c.call("ImageService/ImageFsInfo", &cri.ImageFsInfoRequest{}, &cri.ImageFsInfoResponse{}); err != nil {
			return fmt.Errorf("validate CRI %s image API: %w", c.api, err)
		}
	}
	return command(arguments[1:])
}

func (c client) version([]string) error {
	var version cri.VersionResponse
	if err := c.call("RuntimeService/Version", &cri.VersionRequest{Version: c.api}, &version); err != nil {
		return err
	}
	fmt.Println("Version: ", version.Version)
	fmt.Println("RuntimeName: ", version.RuntimeName)
	fmt.Println("RuntimeVersion: ", version.RuntimeVersion)
	fmt.Println("RuntimeApiVersion: ", version.RuntimeApiVersion)
	return nil
}

func spec(name string) *cri.ImageSpec {
	return &cri.ImageSpec{Image: name}
}

func (c client) pull(arguments []string) error {
	flags := flag.NewFlagSet("pull", flag.ExitOnError)
	creds := flags.String("creds", "", "USERNAME[:PASSWORD]")
	auth := flags.String("auth", "", "base64 of that")
	flags.Parse(arguments)
	request := cri.PullImageRequest{Image: spec(flags.Arg(0))}
	switch {
	case *creds != "":
		parts := strings.SplitN(*creds+":", ":", 3)
		request.Auth = &cri.AuthConfig{Username: parts[0], Password: parts[1]}
	case *auth != "":
		if _, err := base64.StdEncoding.DecodeString(*auth); err != nil {
			return err
		}
		request.Auth = &cri.AuthConfig{Auth: *auth}
	}
	var response cri.PullImageResponse
	if err := c.call("ImageService/PullImage", &request, &response); err != nil {
		return fmt.Errorf("pulling image: %w", err)
	}
	fmt.Println("Image is up to date for", response.ImageRef)
	return nil
}

func (c client) list(name string) ([]*cri.Image, error) {
	// The filter is always set, even if it is empty.
	request := cri.ListImagesRequest{Filter: &cri.ImageFilter{Image: spec(name)}}
	var response cri.ListImagesResponse
	err := c.call("ImageService/ListImages", &request, &response)
	return response.Images, err
}

func short(digest string) string {
	digest = strings.TrimPrefix(digest, "sha256:")
	if len(digest) > shortID {
		return digest[:shortID]
	}
	return digest
}

func (c client) images(arguments []string) error {
	flags := flag.NewFlagSet("images", flag.ExitOnError)
	quiet := flags.Bool("quiet", false, "ids alone")
	digests := flags.Bool("digests", false, "digests too")
	full := flags.Bool("no-trunc", false, "digests in full")
	flags.Parse(arguments)
	images, err := c.list(flags.Arg(0))
	if err != nil {
		return fmt.Errorf("listing images: %w", err)
	}
	sort.Slice(images, func(one, other int) bool { return first(images[one]) < first(images[other]) })
	table := tabwriter.NewWriter(os.Stdout, 0, 8, 4, ' ', 0)
	defer table.Flush()
	if !*quiet {
		heads := []string{"IMAGE", "TAG", "IMAGE ID", "SIZE"}
		if *digests {
			heads = []string{"IMAGE", "TAG", "DIGEST", "IMAGE ID", "SIZE"}
		}
		fmt.Fprintln(table, strings.Join(heads, "\t"))
	}
	for _, image := range images {
		if *quiet {
			fmt.Println(image.Id)
			continue
		}
		name, digest := "<none>", "<none>"
		if len(image.RepoDigests) > 0 {
			at := strings.LastIndex(image.RepoDigests[0], "@")
			name, digest = image.RepoDigests[0][:at], image.RepoDigests[0][at+1:]
		}
		tags := image.RepoTags
		if len(tags) == 0 {
			tags = []string{name + ":<none>"}
		}
		id := image.Id
		if !*full {
			id, digest = short(id), short(digest)
		}
		for _, tag := range tags {
			at := strings.LastIndex(tag, ":")
			row := []string{tag[:at], tag[at+1:]}
			if *digests {
				row = append(row, digest)
			}
			fmt.Fprintln(table, strings.Join(append(row, id, fmt.Sprint(image.Size, "B")), "\t"))
		}
	}
	return nil
}

// Sorts like crictl.
func first(image *cri.Image) string {
	return strings.Join(append(append(append([]string{}, image.RepoTags...), image.RepoDigests...), image.Id), " ")
}

func (c client) status(name string, verbose bool) (*cri.ImageStatusResponse, error) {
	request := cri.ImageStatusRequest{Image: spec(name), Verbose: verbose}
	var response cri.ImageStatusResponse
	if err := c.call("ImageService/ImageStatus", &request, &response); err != nil {
		return nil, fmt.Errorf("image status for %q request: %w", name, err)
	}
	if response.Image == nil {
		return nil, fmt.Errorf("no such image %q present", name)
	}
	return &response, nil
}

func (c client) inspect(arguments []string) error {
	flags := flag.NewFlagSet("inspecti", flag.ExitOnError)
	quiet := flags.Bool("quiet", false, "without the verbose part")
	flags.Parse(arguments)
	for _, name := range flags.Args() {
		status, err := c.status(name, !*quiet)
		if err != nil {
			return err
		}
		answer := map[string]interface{}{"status": status.Image}
		for key, text := range status.Info {
			var value interface{}
			if err := json.Unmarshal([]byte(text), &value); err != nil {
				return fmt.Errorf("%s is no JSON: %w", key, err)
			}
			answer[key] = value
		}
		text, err := json.MarshalIndent(answer, "", "  ")
		if err != nil {
			return err
		}
		fmt.Println(string(text))
	}
	return nil
}

func (c client) remove(arguments []string) error {
	if len(arguments) == 1 && arguments[0] == "--all" {
		images, err := c.list("")
		if err != nil {
			return err
		}
		arguments = nil
		for _, image := range images {
			arguments = append(arguments, image.Id)
		}
	}
	for _, name := range arguments {
		status, err := c.status(name, false)
		if err != nil {
			return err
		}
		request := cri.RemoveImageRequest{Image: spec(name)}
		if err := c.call("ImageService/RemoveImage", &request, &cri.RemoveImageResponse{}); err != nil {
			return fmt.Errorf("error of removing image %q: %w", name, err)
		}
		gone := status.Image.RepoTags
		if len(gone) == 0 {
			gone = status.Image.RepoDigests
		}
		for _, name := range gone {
			fmt.Println("Deleted:", name)
		}
	}
	return nil
}

func (c client) imageFsInfo([]string) error {
	var response cri.ImageFsInfoResponse
	if err := c.call("ImageService/ImageFsInfo", &cri.ImageFsInfoRequest{}, &response); err != nil {
		return err
	}
	text, err := json.MarshalIndent(map[string]interface{}{"status": response}, "", "  ")
	fmt.Println(string(text))
	return err
}

// Not a command of crictl: many calls over one connection, sequential and concurrent, as the kubelet makes them.
func (c client) many(arguments []string) error {
	var count int
	if _, err := fmt.Sscan(arguments[0], &count); err != nil {
		return err
	}
	packages := []string{"v1", "v1alpha2"}
	for number := 0; number < count; number++ {
		one := client{c.connection, packages[number%2], c.timeout}
		if err := one.call("RuntimeService/Version", &cri.VersionRequest{}, &cri.VersionResponse{}); err != nil {
			return fmt.Errorf("call %d: %w", number, err)
		}
	}
	var group sync.WaitGroup
	failed := make(chan error, count)
	for number := 0; number < count; number++ {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			one := client{c.connection, packages[number%2], c.timeout}
			var err error
			if number%3 == 0 {
				_, err = one.list("")
			} else {
				err = one.call("RuntimeService/Version", &cri.VersionRequest{}, &cri.VersionResponse{})
			}
			if err != nil {
				failed <- fmt.Errorf("call %d: %w", number, err)
			}
		}(number)
	}
	group.Wait()
	close(failed)
	if err, some := <-failed; some {
		return err
	}
	fmt.Println(2*count, "answers")
	return nil
}
