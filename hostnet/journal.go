package hostnet

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	journalPrefix = "hostnet-"
	journalSuffix = ".journal"
	// corruptName is where a journal that cannot be read is put; one is kept.
	corruptName = "hostnet.corrupt"

	// maxJournals bounds how many files of a state directory are looked at.
	maxJournals = 1024
	// lockWait is how long another ustack may be busy with the directory.
	lockWait = 3 * time.Second
	// Journals of dead processes in other network namespaces wait for somebody to
	// come back there. Most such namespaces are gone, which cannot be told from
	// here: only the newest maxForeign are kept, and none longer than foreignAge.
	maxForeign = 16
	foreignAge = 30 * 24 * time.Hour
)

// A stateDir is the directory of the journals. While it is locked, no other Host
// changes what is shared.
type stateDir struct {
	candidates []string
	wait       time.Duration // for the lock
	path       string        // "" until it is found or made
	lock       *os.File      // nil while not locked
	lockErr    error         // of waiting in vain, until unlock
}

func newStateDir(path string) *stateDir {
	if path != "" {
		return &stateDir{candidates: []string{path}, wait: lockWait}
	}
	var list []string
	if os.Geteuid() == 0 {
		list = append(list, "/run/ustack")
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		list = append(list, filepath.Join(dir, "ustack"))
	}
	list = append(list, filepath.Join(os.TempDir(), "ustack-"+strconv.Itoa(os.Geteuid())))
	return &stateDir{candidates: list, wait: lockWait}
}

// open finds the directory and locks it. Without create it is no error if there
// is none; then path stays "".
func (d *stateDir) open(create bool) error {
	if d.lock != nil || d.lockErr != nil {
		return d.lockErr
	}
	if d.path == "" {
		var errs []error
		for _, path := range d.candidates {
			if create {
				if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
					errs = append(errs, err)
					continue
				}
			}
			err := checkDir(path)
			if err == nil {
				d.path = path
				break
			}
			if create || !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		if d.path == "" {
			if len(errs) == 0 {
				return nil
			}
			return fmt.Errorf("no usable state directory: %w", errs[0])
		}
	}
	f, err := os.OpenFile(filepath.Join(d.path, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("lock the state directory: %w", err)
	}
	// flock cannot be given a deadline, so it is tried.
	for end := time.Now().Add(d.wait); ; time.Sleep(5 * time.Millisecond) {
		err = flock(f)
		if err == nil {
			d.lock = f
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			f.Close()
			d.lockErr = fmt.Errorf("lock the state directory: %s is held by another process (see lslocks): %w", f.Name(), err)
			return d.lockErr
		}
	}
}

// unlock lets others change what is shared.
func (d *stateDir) unlock() {
	if d.lock != nil {
		d.lock.Close()
		d.lock = nil
	}
	d.lockErr = nil
}

// checkDir refuses a directory in which others could have put something.
func checkDir(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is not a directory", path)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d, not to %d", path, st.Uid, os.Geteuid())
	case st.Mode&0o022 != 0:
		return fmt.Errorf("%s can be written by others: chmod go-w %s", path, path)
	}
	return nil
}

func flock(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

// A journal is this Host's own file, locked while it is open.
type journal struct {
	f *os.File
	n int
}

// create makes a journal in the open directory.
func (d *stateDir) create(ns namespace, tap string) (*journal, error) {
	start, err := startTime(os.Getpid())
	if err != nil {
		return nil, err
	}
	var tag [6]byte
	rand.Read(tag[:])
	name := fmt.Sprintf("%s%d-%s%s", journalPrefix, os.Getpid(), hex.EncodeToString(tag[:]), journalSuffix)
	f, err := os.OpenFile(filepath.Join(d.path, name), os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{f: f}
	err = flock(f)
	if err == nil {
		err = j.write(header{
			Format: journalFormat, PID: os.Getpid(), Start: start, Boot: bootID(),
			NetNS: ns.inode, Cookie: ns.cookie, Tap: tap,
		})
	}
	if err == nil {
		err = syncDir(d.path)
	}
	if err != nil {
		j.close(true)
		return nil, err
	}
	return j, nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// next returns the number of the next change.
func (j *journal) next() int {
	j.n++
	return j.n
}

// append writes one record and returns when it is safe.
func (j *journal) append(c change) error { return j.write(c) }

func (j *journal) write(v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = j.f.Write(append(b, '\n'))
	}
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// close ends the journal, and removes it if nothing in it is left to do.
func (j *journal) close(remove bool) {
	if remove {
		os.Remove(j.f.Name())
	}
	j.f.Close()
}

// A foundJournal is somebody's file in the state directory.
type foundJournal struct {
	header
	path    string
	changes []change
	mtime   time.Time
	file    *os.File // locked; nil if its owner lives
}

// scan reads all journals but own. The caller closes the files of dead ones.
func (d *stateDir) scan(own *journal) (dead, live []foundJournal, warnings []string) {
	dir, err := os.Open(d.path)
	if err != nil {
		return nil, nil, []string{fmt.Sprintf("leftovers of earlier runs cannot be looked for: %v", err)}
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxJournals)
	if err != nil && err != io.EOF {
		warnings = append(warnings, fmt.Sprintf("leftovers of earlier runs cannot be looked for: %v", err))
	}
	for _, name := range names {
		path := filepath.Join(d.path, name)
		if !strings.HasPrefix(name, journalPrefix) || !strings.HasSuffix(name, journalSuffix) || own != nil && path == own.f.Name() {
			continue
		}
		j, alive, err := readJournal(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil && alive:
			warnings = append(warnings, fmt.Sprintf("journal %s of a running ustack is ignored: %v", path, err))
		case err != nil:
			aside := filepath.Join(d.path, corruptName)
			msg := fmt.Sprintf("journal %s of a dead ustack is unreadable, what it changed is not undone: %v; put aside as %s", path, err, aside)
			if err := os.Rename(path, aside); err != nil {
				msg = fmt.Sprintf("journal %s is unreadable and cannot be put aside: %v", path, err)
			}
			warnings = append(warnings, msg)
		case alive:
			live = append(live, j)
		default:
			dead = append(dead, j)
		}
	}
	return dead, live, warnings
}

// readJournal reads a file that may hold anything. alive says whether its owner
// runs.
func readJournal(path string) (j foundJournal, alive bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return j, false, err
	}
	keep := false
	defer func() {
		if !keep {
			f.Close()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return j, false, err
	}
	if !st.Mode().IsRegular() {
		return j, false, errors.New("not a regular file")
	}
	if err := flock(f); errors.Is(err, unix.EWOULDBLOCK) {
		alive = true
	} else if err != nil {
		return j, false, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return j, alive, err
	}
	// Nothing was changed before the first line was whole.
	if !alive && bytes.IndexByte(b, '\n') < 0 && len(b) <= maxLine {
		os.Remove(path)
		return j, false, fs.ErrNotExist
	}
	head, changes, err := decodeJournal(b)
	if err != nil {
		return j, alive, err
	}
	j = foundJournal{header: head, path: path, changes: changes, mtime: st.ModTime()}
	// Not every file system has flock.
	if start, err := startTime(head.PID); err == nil && start == head.Start && head.Boot == bootID() && head.PID != os.Getpid() {
		alive = true
	}
	if alive {
		return j, true, nil
	}
	if whole := bytes.LastIndexByte(b, '\n') + 1; whole < len(b) {
		if err := f.Truncate(int64(whole)); err != nil {
			return j, false, err
		}
	}
	j.file, keep = f, true
	return j, false, nil
}

// startTime returns when a process started, in clock ticks after boot: field 22 of
// /proc/PID/stat (proc_pid_stat(5)). The second field is in parentheses and may
// hold anything.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	if i := bytes.LastIndexByte(b, ')'); i >= 0 {
		if fields := strings.Fields(string(b[i+1:])); len(fields) >= 20 {
			return strconv.ParseUint(fields[19], 10, 64)
		}
	}
	return 0, fmt.Errorf("/proc/%d/stat has no start time", pid)
}
