package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// The supervisor lives in the namespaces of the program: a network namespace in which there
// is nothing but an image of the stack's link, and a mount namespace in which files say
// where names are looked up. An ordinary user gets them in a user namespace, whose only
// user and group are its own.

// A surroundings says which namespaces a program gets.
type surroundings struct {
	net, mount bool
	// user makes a user namespace to be allowed the others.
	user bool
}

func surroundingsOf(cfg Config) surroundings {
	if hasCapabilities(unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN) {
		return surroundings{net: !cfg.ShareNet, mount: true}
	}
	if cfg.ShareNet {
		return surroundings{} // the price of a user namespace would be more than that of other names
	}
	return surroundings{net: true, mount: true, user: true}
}

// warnOfPrivileges says that the program will not get what its file would give it: an ordinary
// user's program is watched, which the kernel allows only where it gains nothing by an exec.
func warnOfPrivileges(cfg Config) {
	if hasCapabilities(unix.CAP_SYS_ADMIN) {
		return
	}
	var st unix.Stat_t
	if unix.Stat(cfg.Path, &st) != nil {
		return // exec will say
	}
	switch {
	case st.Mode&unix.S_ISUID != 0 && int(st.Uid) != os.Geteuid():
		cfg.warn(fmt.Sprintf("%s is a set-user-ID program, and it runs as you here: an ordinary user's program gains no privileges "+
			"on the stack (user namespace, no_new_privs): run ustack itself as root: sudo ustack run ...", cfg.Path))
	case st.Mode&unix.S_ISGID != 0 && st.Mode&unix.S_IXGRP != 0 && int(st.Gid) != os.Getegid():
		cfg.warn(fmt.Sprintf("%s is a set-group-ID program, and it runs without that group here: an ordinary user's program gains "+
			"no privileges on the stack (user namespace, no_new_privs)", cfg.Path))
	case cfg.Verbose:
		if n, err := unix.Getxattr(cfg.Path, "security.capability", nil); err == nil && n > 0 {
			cfg.warn(fmt.Sprintf("%s has file capabilities, and runs without them here: an ordinary user's program gains "+
				"no privileges on the stack (user namespace, no_new_privs)", cfg.Path))
		}
	}
}

// supervisorCapabilities are what the supervisor needs in its user namespace: to mount, to make
// interfaces, and to look at programs that forbid it to others of their user.
var supervisorCapabilities = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SYS_PTRACE}

// supervisorAttr says how the supervisor is started: in a process group of its own, so that
// what a terminal sends to the program does not reach it.
func (s surroundings) supervisorAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if s.net {
		attr.Cloneflags |= unix.CLONE_NEWNET
	}
	if s.mount {
		attr.Cloneflags |= unix.CLONE_NEWNS
	}
	if s.user {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		uid, gid := os.Geteuid(), os.Getegid()
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		attr.AmbientCaps = supervisorCapabilities
	}
	return attr
}

// hasCapabilities reports whether this process has all of them.
func hasCapabilities(all ...int) bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&head, &data[0]) != nil {
		return false
	}
	for _, c := range all {
		if data[c/32].Effective&(1<<(c%32)) == 0 {
			return false
		}
	}
	return true
}

// An environment is what a supervisor has made of its namespaces.
type environment struct {
	names *names
	image *image
}

// prepare makes the program's environment. image waits for what startImage has begun.
func prepare(cfg stageConfig, o order, image func() (*image, error)) (*environment, error) {
	// `ustack ss` shows it as the owner of the program's sockets.
	_ = os.WriteFile("/proc/self/comm", []byte("run:"+filepath.Base(o.Path)), 0)
	e := &environment{}
	if cfg.Mount {
		e.names = &names{avoid: []string{o.Path, string(cfg.Socket)}}
	}
	imaged := make(chan error, 1)
	go func() { // beside the mounts; both mostly wait for the kernel
		var err error
		if e.image, err = image(); e.image != nil && cfg.State != nil {
			e.image.update(*cfg.State)
		}
		imaged <- err
	}()
	var err error
	if e.names != nil && cfg.State != nil {
		err = e.names.update(*cfg.State)
	}
	if ierr := <-imaged; ierr != nil {
		err = ierr
	}
	return e, namespaceError(o, err)
}

// update makes the environment what the stack is now.
func (e *environment) update(st control.Status) error {
	if e.image != nil {
		e.image.update(st)
	}
	if e.names != nil {
		return e.names.update(st)
	}
	return nil
}

// namespaceError turns what is forbidden in a namespace of an ordinary user into the error
// of who may not have one.
func namespaceError(o order, err error) error {
	if errno, ok := plainErrno(err).(syscall.Errno); ok && o.Drop && (errno == unix.EPERM || errno == unix.EACCES) {
		return &LaunchError{Step: "namespaces", Path: o.Path, Err: errno}
	}
	if err != nil {
		return fmt.Errorf("environment of %s: %w", o.Path, err)
	}
	return nil
}
