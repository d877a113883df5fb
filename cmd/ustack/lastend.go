package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A lastEnd is what a daemon leaves beside its control socket when its link has ended
// under it, for `ustack doctor`. The next daemon on the socket removes it.
type lastEnd struct {
	Link   string    `json:"link"`
	PID    int       `json:"pid"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

func lastEndPath(socket string) string { return socket + ".ended" }

// leaveLastEnd writes down why the link ended.
func leaveLastEnd(socket, link string, reason error) error {
	b, err := json.Marshal(lastEnd{Link: link, PID: os.Getpid(), At: time.Now(), Reason: reason.Error()})
	if err != nil {
		return err
	}
	path := lastEndPath(socket)
	if err := forgetLastEnd(socket); err != nil {
		return err
	}
	// A folder may be anybody's: nothing that is there is written to.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func forgetLastEnd(socket string) error {
	if err := os.Remove(lastEndPath(socket)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// readLastEnd returns in words why the last daemon on the link ended, "" if nothing is
// known of that.
func readLastEnd(socket, link string) string {
	f, err := os.OpenFile(lastEndPath(socket), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return ""
	}
	var e lastEnd
	if json.Unmarshal(b, &e) != nil || e.Link != link {
		return ""
	}
	return fmt.Sprintf("the daemon on it, pid %d, ended at %s: %s", e.PID, e.At.Format(time.RFC3339), e.Reason)
}
