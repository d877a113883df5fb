package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	socketName = "ustack.sock"
	rootSocket = "/run/" + socketName
	// maxPath is what fits into sockaddr_un with its closing zero, in bytes (unix(7)).
	maxPath = 107
)

// SocketPath returns the path of the daemon's socket for a client: flag if it is not
// empty, else $USTACK_SOCKET, else the first that exists of
// $XDG_RUNTIME_DIR/ustack.sock and /run/ustack.sock, else the one that a daemon of
// this user would make.
func SocketPath(flag string) string {
	if p, _ := namedPath(flag); p != "" {
		return p
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	own := filepath.Join(dir, socketName)
	if dir != "" {
		if _, err := os.Lstat(own); err == nil {
			return own
		}
	}
	if _, err := os.Lstat(rootSocket); err == nil || dir == "" || os.Geteuid() == 0 {
		return rootSocket
	}
	return own
}

// ListenPath returns the path at which a daemon makes its socket: flag if it is not
// empty, else $USTACK_SOCKET, else /run/ustack.sock for root and
// $XDG_RUNTIME_DIR/ustack.sock for others. isDefault says that neither the flag nor
// $USTACK_SOCKET named it.
func ListenPath(flag string) (path string, isDefault bool, err error) {
	if p, _ := namedPath(flag); p != "" {
		return p, false, nil
	}
	if os.Geteuid() == 0 {
		return rootSocket, true, nil
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, socketName), true, nil
	}
	return "", true, errors.New("control: no place for the socket: XDG_RUNTIME_DIR is not set; name one with --socket PATH")
}

func namedPath(flag string) (string, bool) {
	if flag != "" {
		return flag, true
	}
	p := os.Getenv("USTACK_SOCKET")
	return p, p != ""
}

// A fileID tells one file from another that took its path.
type fileID struct{ dev, ino uint64 }

func idOf(path string) (fileID, fs.FileInfo, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return fileID{}, nil, err
	}
	st := fi.Sys().(*syscall.Stat_t)
	return fileID{uint64(st.Dev), st.Ino}, fi, nil
}

// removeSocket removes the file unless another has taken its place.
func removeSocket(path string, id fileID) {
	if now, _, err := idOf(path); err == nil && now == id {
		_ = os.Remove(path)
	}
}

// listenUnix makes the listening socket of cfg.
func listenUnix(cfg ServerConfig) (*net.UnixListener, fileID, error) {
	path := cfg.Path
	if path == "" {
		return nil, fileID{}, errors.New("control: no path for the socket: name one with --socket PATH")
	}
	if len(path) > maxPath {
		return nil, fileID{}, fmt.Errorf("control: socket path %s is %d bytes long, and a unix socket's is at most %d: choose a shorter one with --socket", path, len(path), maxPath)
	}
	uid, gid, mode, err := fileOwner(cfg)
	if err != nil {
		return nil, fileID{}, err
	}
	if err := clearPath(path); err != nil {
		return nil, fileID{}, err
	}
	// The file gets its mode from the socket's own inode (Linux, unix_bind), so it is
	// never open to others, and the umask of the process, shared by all its threads,
	// stays as it is.
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var opErr error
		err := rc.Control(func(fd uintptr) { opErr = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, opErr)
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fileID{}, fmt.Errorf("control: make socket %s: %w%s", path, plainCause(err), listenRemedy(path, err))
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false)
	id, _, err := idOf(path)
	if err == nil && (uid >= 0 || gid >= 0) {
		err = os.Lchown(path, uid, gid)
	}
	if errors.Is(err, fs.ErrPermission) && cfg.Group != "" {
		err = fmt.Errorf("%w: name a group that you are in (id -G), or run as root", err)
	}
	if err == nil && mode != 0o600 {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		removeSocket(path, id)
		ul.Close()
		return nil, fileID{}, fmt.Errorf("control: hand socket %s to its owner: %w", path, err)
	}
	return ul, id, nil
}

// fileOwner is who the socket file goes to (-1: unchanged), and its mode.
func fileOwner(cfg ServerConfig) (uid, gid int, mode os.FileMode, err error) {
	uid, gid, mode = -1, -1, cfg.Mode.Perm()
	if cfg.Group != "" {
		gid, err = strconv.Atoi(cfg.Group)
		if err != nil {
			g, err := user.LookupGroup(cfg.Group)
			if err != nil {
				return 0, 0, 0, fmt.Errorf("control: group %q for the socket: %w: see getent group", cfg.Group, err)
			}
			if gid, err = strconv.Atoi(g.Gid); err != nil {
				return 0, 0, 0, fmt.Errorf("control: group %q for the socket: %w", cfg.Group, err)
			}
		}
	}
	if mode == 0 {
		mode = 0o600
		if gid >= 0 {
			mode = 0o660
		}
	}
	if cfg.DefaultPath && os.Geteuid() == 0 {
		if n, err := strconv.Atoi(os.Getenv("SUDO_UID")); err == nil && n > 0 {
			uid = n
		}
	}
	return uid, gid, mode, nil
}

// clearPath removes a dead socket at path. Whatever else is there is an error.
func clearPath(path string) error {
	id, fi, err := idOf(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("control: look at socket path: %w", err)
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("control: %s is there and is not a socket: remove it, or choose another path with --socket", path)
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	switch {
	case err == nil:
		defer c.Close()
		who := "another process"
		if e, err := newEndpoint(c); err == nil {
			who = peerName(e)
		}
		return fmt.Errorf("control: %s is in use by %s: stop it, or choose another path with --socket: %w", path, who, syscall.EADDRINUSE)
	case errors.Is(err, syscall.ECONNREFUSED):
		removeSocket(path, id)
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("control: %s is in use by a process that does not answer: stop it, or choose another path with --socket: %w", path, syscall.EADDRINUSE)
	}
	return fmt.Errorf("control: see who holds %s: %w: remove it if nobody does, or choose another path with --socket", path, plainCause(err))
}

// plainCause takes the layers off an error of package net that repeat the path.
func plainCause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err
	}
	return err
}

func listenRemedy(path string, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ": make the directory " + filepath.Dir(path) + ", or choose another path with --socket"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return ": choose a path in a directory of your own with --socket"
	case errors.Is(err, syscall.EADDRINUSE):
		return ": another daemon took it just now"
	}
	return ""
}
