package runner

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

const (
	resolvConfPath = "/etc/resolv.conf"
	nsswitchPath   = "/etc/nsswitch.conf"
)

// nscdDirs are where nscd listens: libc asks it before anything else.
var nscdDirs = []string{"/run/nscd", "/var/run/nscd"}

// names are the files in the program's mount namespace that say where names are looked
// up.
type names struct {
	// avoid are paths that must stay in sight while the files are made.
	avoid   []string
	mounted bool
	text    string // of resolv.conf
	id      unix.Stat_t
}

// update writes the stack's servers into resolv.conf.
func (n *names) update(st control.Status) error {
	text := resolvConf(st)
	if !n.mounted {
		n.text = text
		return n.mount()
	}
	var now unix.Stat_t
	if unix.Stat(resolvConfPath, &now) != nil || now.Dev != n.id.Dev || now.Ino != n.id.Ino {
		// A file that is replaced on the host takes the mount on it away.
		n.text = text
		return n.mount()
	}
	if text == n.text {
		return nil
	}
	n.text = text
	f, err := os.OpenFile(resolvConfPath, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), 0)
	return errors.Join(err, f.Truncate(int64(len(text))), f.Close())
}

// mount puts the files into their places. They are made on a file system of their own, which
// is in sight for that moment only.
func (n *names) mount() error {
	if !n.mounted {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return fmt.Errorf("keep mounts private: %w", err)
		}
	}
	stage, err := n.stage()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Unmount(stage, unix.MNT_DETACH) }()
	resolv := filepath.Join(stage, "resolv.conf")
	if err := os.WriteFile(resolv, []byte(n.text), 0o644); err != nil {
		return err
	}
	if err := unix.Stat(resolv, &n.id); err != nil {
		return err
	}
	err = unix.Mount(resolv, resolvConfPath, "", unix.MS_BIND, "")
	if err == unix.ENOENT { // missing, or a symbolic link to what is missing
		err = mirrorEtc(stage, resolv)
	}
	if err != nil {
		return fmt.Errorf("mount a private %s: %w", resolvConfPath, err)
	}
	if n.mounted {
		return nil
	}
	n.mounted = true
	if b, err := os.ReadFile(nsswitchPath); err == nil {
		if text, changed := localHosts(b); changed {
			private := filepath.Join(stage, "nsswitch.conf")
			if err := os.WriteFile(private, text, 0o644); err != nil {
				return err
			}
			if err := unix.Mount(private, nsswitchPath, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("mount a private %s: %w", nsswitchPath, err)
			}
		}
	}
	empty := filepath.Join(stage, "empty")
	for _, dir := range nscdDirs {
		if _, err := os.Lstat(filepath.Join(dir, "socket")); err != nil {
			continue
		}
		if err := os.MkdirAll(empty, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(empty, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
	}
	return nil
}

// stage mounts an empty file system on a directory that nobody needs for now.
func (n *names) stage() (string, error) {
	err := errors.New("no directory to mount on")
	for _, dir := range []string{"/mnt", "/media", "/srv", "/opt", "/tmp", "/run"} {
		if slices.ContainsFunc(n.avoid, func(p string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }) {
			continue
		}
		if err = unix.Mount("ustack", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m"); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("mount a private file system: %w", err)
}

// mirrorEtc puts a directory into the place of /etc that has everything that is there, and
// resolv.conf.
func mirrorEtc(stage, resolv string) error {
	const etc = "/etc"
	entries, err := os.ReadDir(etc)
	if err != nil {
		return err
	}
	// On a mount of its own, so that it can be moved with what is mounted in it.
	mirror := filepath.Join(stage, "etc")
	if err := os.Mkdir(mirror, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("ustack", mirror, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m"); err != nil {
		return err
	}
	bind := func(from, to string, dir bool) error {
		if dir {
			err = os.Mkdir(to, 0o755)
		} else {
			err = os.WriteFile(to, nil, 0o644)
		}
		if err == nil {
			err = unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, "")
		}
		return err
	}
	for _, e := range entries {
		from, to := filepath.Join(etc, e.Name()), filepath.Join(mirror, e.Name())
		switch {
		case from == resolvConfPath:
		case e.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(from)
			if err == nil {
				err = os.Symlink(target, to)
			}
			if err != nil {
				return err
			}
		default:
			if err := bind(from, to, e.IsDir()); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
	if err := bind(resolv, filepath.Join(mirror, "resolv.conf"), false); err != nil {
		return err
	}
	return unix.Mount(mirror, etc, "", unix.MS_MOVE, "")
}

// resolvConf is resolv.conf(5) for the stack's servers.
func resolvConf(st control.Status) string {
	var b strings.Builder
	b.WriteString("# The DNS servers of the ustack daemon, for this program only.\n")
	servers, others := nameServers(st)
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	for _, s := range others {
		fmt.Fprintf(&b, "# left out, for its port cannot be told here: %s\n", s)
	}
	if len(st.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(st.Search, " "))
	}
	return b.String()
}

// nameServers returns the servers that resolv.conf can name, and those it cannot, which do
// not listen at port 53.
func nameServers(st control.Status) (servers []netip.Addr, others []string) {
	for _, text := range st.DNS {
		server, err := netip.ParseAddrPort(text)
		switch {
		case err != nil:
		case server.Port() != 53:
			others = append(others, server.String())
		default:
			servers = append(servers, server.Addr().Unmap())
		}
	}
	return servers, others
}

// remoteServices are sources of nsswitch.conf(5) that ask a process of the host by a unix socket,
// which would look at the host's network.
var remoteServices = []string{"resolve", "mymachines", "sss", "wins", "winbind", "nis", "nisplus", "ldap"}

// localHosts takes such sources off the line "hosts:", and reports whether there were any.
func localHosts(nsswitch []byte) (text []byte, changed bool) {
	lines := bytes.SplitAfter(nsswitch, []byte("\n"))
	for i, line := range lines {
		body, _, _ := bytes.Cut(line, []byte("#"))
		database, sources, ok := strings.Cut(string(body), ":")
		if !ok || strings.TrimSpace(database) != "hosts" {
			continue
		}
		var keep []string
		var cut, dropped, dns bool // cut: what the source before stands for is gone
		// Actions in brackets belong to the source before them; they may hold blanks.
		for _, word := range sourceWords(sources) {
			if strings.HasPrefix(word, "[") {
				if !cut {
					keep = append(keep, word)
				}
				continue
			}
			if cut = slices.Contains(remoteServices, word) || strings.HasPrefix(word, "mdns"); cut {
				dropped = true
				continue
			}
			dns = dns || word == "dns"
			keep = append(keep, word)
		}
		if !dropped {
			continue
		}
		if !dns {
			keep = append(keep, "dns")
		}
		changed = true
		lines[i] = []byte("hosts: " + strings.Join(keep, " ") + "\n")
	}
	return bytes.Join(lines, nil), changed
}

// sourceWords splits what follows "hosts:" into sources and bracketed actions.
func sourceWords(text string) []string {
	var words []string
	for {
		text = strings.TrimSpace(text)
		if text == "" {
			return words
		}
		end := strings.IndexAny(text, " \t[")
		if text[0] == '[' {
			end = strings.IndexByte(text, ']') + 1
		}
		if end <= 0 {
			end = len(text)
		}
		words = append(words, text[:end])
		text = text[end:]
	}
}
