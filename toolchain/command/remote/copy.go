package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/pkg/sftp"
	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi-go-provider/infer/types"

	"openstack-ha-api/toolchain/command/lifecycle"
)

// CopyToRemote is the resource command:remote:CopyToRemote.
type CopyToRemote struct{}

// CopyToRemoteInputs are its inputs. The source is a file, a text or a folder.
type CopyToRemoteInputs struct {
	Connection *Connection          `pulumi:"connection"        provider:"secret"`
	Triggers   *[]any               `pulumi:"triggers,optional" provider:"replaceOnChanges"`
	Source     types.AssetOrArchive `pulumi:"source"`
	RemotePath string               `pulumi:"remotePath"`
}

// CopyToRemoteOutputs are its inputs; it has no outputs of its own.
type CopyToRemoteOutputs struct {
	CopyToRemoteInputs
}

// Check refuses the kinds of source that cannot be copied as they are.
func (*CopyToRemote) Check(
	ctx context.Context, request infer.CheckRequest,
) (infer.CheckResponse[CopyToRemoteInputs], error) {
	inputs, failures, err := infer.DefaultCheck[CopyToRemoteInputs](ctx, request.NewInputs)
	source := inputs.Source
	isFile := source.Asset != nil && (source.Asset.IsPath() || source.Asset.IsText())
	isFolder := source.Archive != nil && source.Archive.IsPath()
	if err == nil && isFile == isFolder {
		failures = append(failures, p.CheckFailure{
			Property: "source", Reason: "must be one of a FileAsset, a StringAsset and a FileArchive",
		})
	}
	return infer.CheckResponse[CopyToRemoteInputs]{Inputs: inputs, Failures: failures}, err
}

// Create copies.
func (*CopyToRemote) Create(
	ctx context.Context, request infer.CreateRequest[CopyToRemoteInputs],
) (infer.CreateResponse[CopyToRemoteOutputs], error) {
	id, err := lifecycle.NewID(request.Name)
	if err == nil && !request.DryRun {
		err = request.Inputs.copy(ctx)
	}
	return infer.CreateResponse[CopyToRemoteOutputs]{ID: id, Output: CopyToRemoteOutputs{request.Inputs}}, err
}

// Update copies again if the content or the destination changed, and not if only the connection did.
func (*CopyToRemote) Update(
	ctx context.Context, request infer.UpdateRequest[CopyToRemoteInputs, CopyToRemoteOutputs],
) (infer.UpdateResponse[CopyToRemoteOutputs], error) {
	var err error
	changed := request.Inputs.hash() != request.State.hash() || request.Inputs.RemotePath != request.State.RemotePath
	if changed && !request.DryRun {
		err = request.Inputs.copy(ctx)
	}
	return infer.UpdateResponse[CopyToRemoteOutputs]{Output: CopyToRemoteOutputs{request.Inputs}}, err
}

func (i *CopyToRemoteInputs) hash() string {
	if i.Source.Archive != nil {
		return i.Source.Archive.Hash
	}
	return i.Source.Asset.Hash
}

// copy writes the source to the host, as the user who logs in.
func (i *CopyToRemoteInputs) copy(ctx context.Context) error {
	connection, err := i.Connection.Dial(ctx)
	if err != nil {
		return err
	}
	defer connection.Close()
	stop := context.AfterFunc(ctx, func() { _ = connection.Close() })
	defer stop()
	client, err := sftp.NewClient(connection)
	if err != nil {
		return fmt.Errorf("%s has no SFTP: %w", *i.Connection.Host, err)
	}
	defer client.Close()

	target := remoteFiles{client}
	switch {
	case i.Source.Asset != nil && i.Source.Asset.IsText():
		err = target.writeText(i.Source.Asset.Text, i.RemotePath)
	case i.Source.Asset != nil:
		err = target.copyPath(i.Source.Asset.Path, i.RemotePath)
	default:
		err = target.copyPath(i.Source.Archive.Path, i.RemotePath)
	}
	if ctx.Err() != nil {
		return lifecycle.Stopped(ctx)
	}
	return err
}

// remoteFiles writes files on a host.
type remoteFiles struct{ *sftp.Client }

func (r remoteFiles) isDir(name string) (bool, error) {
	info, err := r.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.IsDir(), err
}

func (r remoteFiles) writeText(text, target string) error {
	dir, err := r.isDir(target)
	if err != nil {
		return fmt.Errorf("remote path %s: %w", target, err)
	}
	if dir {
		return fmt.Errorf("remote path %s is a directory: a StringAsset needs the name of a file", target)
	}
	return r.write(strings.NewReader(text), target)
}

// copyPath copies a file to target, or into target if that is a directory. Of a folder it copies the content if source
// ends in a slash, else the folder itself, both into the directory target, which it makes.
func (r remoteFiles) copyPath(source, target string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		dir, err := r.isDir(target)
		if err != nil {
			return fmt.Errorf("remote path %s: %w", target, err)
		}
		if dir {
			target = path.Join(target, filepath.Base(source))
		}
		return r.copyFile(source, target)
	}
	if !strings.HasSuffix(source, "/") {
		target = path.Join(target, filepath.Base(source))
	}
	return filepath.WalkDir(source, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(source, name)
		if err != nil {
			return err
		}
		destination := path.Join(target, filepath.ToSlash(relative))
		if !entry.IsDir() {
			return r.copyFile(name, destination)
		}
		if err := r.MkdirAll(destination); err != nil {
			return fmt.Errorf("remote path %s: %w", destination, err)
		}
		return nil
	})
}

func (r remoteFiles) copyFile(source, target string) error {
	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer file.Close()
	return r.write(file, target)
}

// write makes the file target, and the directories above it, with content.
func (r remoteFiles) write(content io.Reader, target string) error {
	if err := r.MkdirAll(path.Dir(target)); err != nil {
		return fmt.Errorf("remote path %s: %w", path.Dir(target), err)
	}
	file, err := r.Create(target)
	if err != nil {
		return fmt.Errorf("remote path %s: %w", target, err)
	}
	_, err = file.ReadFrom(content)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("remote path %s: %w", target, err)
	}
	return nil
}
