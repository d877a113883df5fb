package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func flags(w *world) {
	fd := w.dial(portEcho)
	w.say("MSG_DONTWAIT", recv(fd, 10, unix.MSG_DONTWAIT))
	write(fd, "hello world")
	poll(fd, unix.POLLIN, long)
	w.say("MSG_PEEK", recv(fd, 5, unix.MSG_PEEK))
	w.say("MSG_PEEK more", recv(fd, 100, unix.MSG_PEEK))
	w.say("waiting bytes", must(unix.IoctlGetInt(fd, unix.TIOCINQ)))
	w.say("read", recv(fd, 6, 0))
	w.say("MSG_TRUNC", recv(fd, 3, unix.MSG_TRUNC))
	w.say("the rest", recv(fd, 100, 0))
	write(fd, "first")
	go func() {
		time.Sleep(soon)
		write(fd, "second")
	}()
	w.say("MSG_WAITALL", recv(fd, 11, unix.MSG_WAITALL))

	check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000}))
	w.say("SO_RCVTIMEO", read(fd, 10))
	check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{}))

	n, err := unix.Writev(fd, [][]byte{[]byte("one "), []byte("two "), []byte("three")})
	w.say("writev", n, err)
	poll(fd, unix.POLLIN, long)
	a, b := make([]byte, 4), make([]byte, 100)
	n, err = unix.Readv(fd, [][]byte{a, b})
	w.say("readv", n, err, a)

	buf := make([]byte, 100)
	write(fd, "by message")
	poll(fd, unix.POLLIN, long)
	n, oobn, rflags, from, err := unix.Recvmsg(fd, buf, make([]byte, 64), 0)
	w.say("recvmsg", n, oobn, rflags&^unix.MSG_CMSG_CLOEXEC, text(from, nil), err)
	w.say("sendto with an address", sendto(fd, "addressed", w, portEcho))
	poll(fd, unix.POLLIN, long)
	n, from, err = unix.Recvfrom(fd, buf, 0)
	w.say("recvfrom", buf[:n], text(from, nil), err)
	w.say("empty write", write(fd, ""))
	w.say("still there", recv(fd, 1, unix.MSG_DONTWAIT))
	n, err = unix.Read(fd, nil)
	w.say("empty read", n, err)

	// Files by sendfile and splice, a megabyte each.
	f := must(os.CreateTemp("", "sockprobe"))
	defer os.Remove(f.Name())
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	must(f.Write(data))
	must(f.Seek(0, 0))
	sum := make(chan string)
	go func() { sum <- sumOf(fd, len(data)) }()
	left := len(data)
	for left > 0 {
		n, err := unix.Sendfile(fd, int(f.Fd()), nil, left)
		check(err)
		left -= n
	}
	w.say("sendfile", <-sum == fmt.Sprintf("%x", sha256.Sum256(data)))
	var p [2]int
	check(unix.Pipe2(p[:], unix.O_CLOEXEC))
	go func() { sum <- sumOf(fd, len(data)) }()
	must(f.Seek(0, 0))
	for left = len(data); left > 0; {
		n := must(unix.Splice(int(f.Fd()), nil, p[1], nil, min(left, 65536), 0))
		for moved := int64(0); moved < n; {
			moved += must(unix.Splice(p[0], nil, fd, nil, int(n-moved), unix.SPLICE_F_MOVE))
		}
		left -= int(n)
	}
	w.say("splice", <-sum == fmt.Sprintf("%x", sha256.Sum256(data)))
	closeAll(fd, p[0], p[1])

	// Many messages by one call.
	fd = w.dial(portSum)
	for range 1000 {
		write(fd, "a small write")
	}
	check(unix.Shutdown(fd, unix.SHUT_WR))
	w.say("a thousand small writes", read(fd, 100))
	unix.Close(fd)
}

// sendto sends to a port of the peer.
func sendto(fd int, what string, w *world, port int) error {
	return unix.Sendto(fd, []byte(what), unix.MSG_NOSIGNAL, addr(w.peer4, port))
}

func sumOf(fd, size int) string {
	h := sha256.New()
	buf := make([]byte, 1<<16)
	for size > 0 {
		n, err := unix.Read(fd, buf[:min(len(buf), size)])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return fmt.Sprint(errName(err), " with ", size, " to go")
		}
		h.Write(buf[:n])
		size -= n
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func shares(w *world) {
	fd := w.dial(portEcho)
	dup := must(unix.Dup(fd))
	w.say("duplicate, local", local(dup) == local(fd), remote(dup))
	w.say("close the first", unix.Close(fd))
	w.say("duplicate, write", write(dup, "by the duplicate"))
	w.say("duplicate, read", read(dup, 100))
	d3 := must(unix.FcntlInt(uintptr(dup), unix.F_DUPFD_CLOEXEC, 100))
	w.say("at 100 or above", d3 >= 100, remote(d3))
	check(unix.Dup3(dup, 99, unix.O_CLOEXEC))
	w.say("at 99", remote(99), write(99, "ninety-nine"), read(99, 100))
	closeAll(99, d3)

	c := self("talk", dup)
	w.say("child", c.Wait())
	w.say("the parent's is as it was", write(dup, "parent"), read(dup, 100))
	unix.Close(dup)

	l := bound(tcp(), any4, 7140)
	check(unix.Listen(l, 5))
	c = self("accept", l)
	w.ask("dial4 7140 hello")
	w.say("child accepts", c.Wait())
	unix.Close(l)

	// A socket that is made by the parent and connected by nobody yet, and one that is
	// passed over a unix socket to a child that was there before.
	pair := must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	c = self("receive", pair[1])
	unix.Close(pair[1])
	fd = w.dial(portEcho)
	check(unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(fd), nil, 0))
	unix.Close(fd)
	w.say("child received", c.Wait())
	unix.Close(pair[0])

	// A shell's redirection: read and write on the one socket by several programs.
	fd = w.dial(portEcho)
	c = exec.Command("sh", "-c", "echo one >&3; head -c 4 <&3; echo two >&3; head -c 4 <&3")
	c.ExtraFiles = []*os.File{os.NewFile(uintptr(must(unix.Dup(fd))), "socket")}
	out, err := c.Output()
	w.say("a shell", out, err)
	unix.Close(fd)

	// As standard input and output.
	fd = w.dial(portSum)
	f := os.NewFile(uintptr(fd), "socket")
	c = exec.Command("echo", "to the peer")
	c.Stdout = f
	w.say("as standard output", c.Run())
	check(unix.Shutdown(fd, unix.SHUT_WR))
	w.say("as standard output, arrived", read(fd, 100))
	f.Close()

	// Threads share it: one reads while another writes.
	fd = w.dial(portEcho)
	const size = 4 << 20
	done := make(chan string)
	go func() { done <- sumOf(fd, size) }()
	data := []byte(strings.Repeat("0123456789abcdef", size/16))
	for sent := 0; sent < size; {
		n, err := unix.Write(fd, data[sent:])
		check(err)
		sent += n
	}
	w.say("a reading and a writing thread", <-done == fmt.Sprintf("%x", sha256.Sum256(data)))
	unix.Close(fd)
}
