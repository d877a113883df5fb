package kernel

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// devices knows the names of the devices in some namespaces, for tracefs tells
// nothing else of them. A nil one knows all.
type devices struct {
	files []*os.File // /proc/…/net/dev, which stays that of its namespace
	known map[string]bool
	read  time.Time // when known was read
}

// relist is how soon a new device is found.
const relist = 100 * time.Millisecond

// devicesOf opens the lists of namespaces: the caller's own, or those that some
// process is in.
func devicesOf(netns []uint64) (*devices, error) {
	d := new(devices)
	for _, inode := range netns {
		f, err := deviceList(inode)
		if err != nil {
			d.close()
			return nil, err
		}
		d.files = append(d.files, f)
	}
	return d, nil
}

func deviceList(inode uint64) (*os.File, error) {
	own := "/proc/thread-self"
	others, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range append([]string{own}, others...) {
		if n, err := netnsInode(filepath.Join(proc, "ns/net")); err != nil || n != inode {
			continue
		}
		f, err := os.Open(filepath.Join(proc, "net/dev"))
		if err == nil {
			return f, nil
		}
		if proc == own {
			return nil, err
		}
	}
	return nil, fmt.Errorf("find the devices of namespace %d: no process is in it", inode)
}

// has reports whether a device of that name is in one of the namespaces.
func (d *devices) has(name string) bool { return d == nil || d.known[name] }

// refresh reads the lists again if they are old, and reports whether they changed.
func (d *devices) refresh() bool {
	if d == nil || time.Since(d.read) < relist {
		return false
	}
	before := d.known
	d.read, d.known = time.Now(), make(map[string]bool)
	buf := make([]byte, 64<<10)
	for _, f := range d.files {
		var text []byte
		for {
			n, err := f.ReadAt(buf, int64(len(text)))
			text = append(text, buf[:n]...)
			if err != nil || n == 0 {
				break
			}
		}
		for line := range strings.Lines(string(text)) {
			// Every namespace has a lo.
			if name, _, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && name != "lo" {
				d.known[name] = true
			}
		}
	}
	return !maps.Equal(before, d.known)
}

// filter is an expression of tracefs that admits these devices; "0" removes the filter
// where they are too many, or a name does not fit into one.
func (d *devices) filter() string {
	const (
		none    = "0"
		longest = 2048
	)
	terms := []string{`name == " "`} // no device has this name
	for _, name := range slices.Sorted(maps.Keys(d.known)) {
		if strings.ContainsAny(name, "\"\\") {
			return none
		}
		terms = append(terms, `name == "`+name+`"`)
	}
	filter := strings.Join(terms, " || ")
	if len(filter) > longest {
		return none
	}
	return filter
}

func (d *devices) close() error {
	if d == nil {
		return nil
	}
	var errs []error
	for _, f := range d.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
