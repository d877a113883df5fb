package runner

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A supervisor answers the calls of one program and all that it starts.
type supervisor struct {
	cfg    stageConfig
	order  order
	passed []int // descriptors for the program
	front  *os.File
	env    *environment
	// image waits for what startImage has begun. steadfast is closed when signals end the supervisor no more.
	image     func() (*image, error)
	steadfast chan struct{}
	arch      *arch
	names     map[int32]sysno
	notifier  notifier
	daemon    *daemon
	meeting   *meeting
	procs     procs
	table     table
	// listeners are those of the table that listen on TCP ports.
	listeners listeners
	told      told
	counts    map[sysno]uint64 // of the supervisor's thread
	held      heldCalls
	restarts  restarts
	voices    voices
	spares    spares
	laters    laters
	loans     loans
	closings  closings
	watch4    watch
	watch6    watch
	paths     paths
	sweeps    chan struct{}
	sweeping  sync.Mutex // held by a sweep

	ctx    context.Context // ends with the last process of the program
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// supervisorMain is the life of the supervisor.
func supervisorMain(o order) int {
	unix.CloseOnExec(o.FD)
	passed, _ := passedDescriptors()
	// The image and the signals are beside the configuration: both take the kernel a while.
	sup := &supervisor{
		order: o, passed: passed, front: os.NewFile(uintptr(o.FD), "front"), arch: nativeArch(runtime.GOARCH),
		image: startImage(o), steadfast: make(chan struct{}),
	}
	go func() {
		defer close(sup.steadfast)
		// It ends after the program, whatever is sent to all processes of a service. Signals that are
		// ignored would be so in the program.
		signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	}()
	line, err := bufio.NewReader(sup.front).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &sup.cfg)
	}
	if err == nil {
		err = sup.run()
	}
	if err != nil {
		sup.reportError(err)
		return 1
	}
	return 0
}

func (sup *supervisor) report(r stageReport) {
	b, err := json.Marshal(r)
	if err == nil {
		_, _ = sup.front.Write(append(b, '\n'))
	}
}

func (sup *supervisor) reportError(err error) {
	r := stageReport{Error: err.Error()}
	if le, ok := err.(*LaunchError); ok {
		if errno, ok := le.Err.(syscall.Errno); ok {
			r.Step, r.Errno = le.Step, errno
		}
	}
	sup.report(r)
}

// run starts the program and serves it until the last process that has the filter ends.
func (sup *supervisor) run() (err error) {
	sup.ctx, sup.cancel = context.WithCancel(context.Background())
	defer sup.cancel()
	sup.counts = make(map[sysno]uint64)
	sup.sweeps = make(chan struct{}, 1)
	sup.spares.limit()
	sup.names = make(map[int32]sysno)
	for name, nr := range sup.arch.nr {
		sup.names[int32(nr)] = name
	}
	// Descendants whose parents end become children of the supervisor, so that it stays
	// allowed to look at them where only ancestors are (Yama).
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a reaper of processes: %w", err)
	}
	if sup.meeting, err = newMeeting(); err != nil {
		return err
	}
	defer sup.meeting.close()
	if sup.daemon, err = newDaemon(string(sup.cfg.Socket)); err != nil {
		return err
	}
	connected := make(chan error, 1)
	go func() { connected <- sup.daemon.open(sup.ctx) }()
	sup.env, err = prepare(sup.cfg, sup.order, sup.image)
	if cerr := <-connected; cerr != nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := mayWatch(); err != nil {
		return &LaunchError{Step: "watch", Path: sup.order.Path, Err: err}
	}
	<-sup.steadfast
	pid, err := sup.launch()
	if err != nil {
		return err
	}
	defer unix.Close(sup.notifier.fd)
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(pidfd)
	if fd, err := unix.PidfdGetfd(pidfd, 0, 0); err == nil {
		unix.Close(fd)
	} else if err == unix.EPERM {
		_ = unix.Kill(pid, unix.SIGKILL)
		return &LaunchError{Step: "access", Path: sup.order.Path, Err: err}
	}
	go sup.watchFront(pidfd)
	sup.report(stageReport{PID: pid})
	sup.wg.Add(3)
	go sup.refresh()
	go sup.reap(pid)
	go sup.sweeper()
	releaseStandardStreams()
	sup.loop()
	sup.end()
	return nil
}

// loop receives calls and answers them, on a thread of its own whose signals are blocked. It reads the
// daemon's replies, too: another thread for them would have to be woken each time.
func (sup *supervisor) loop() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	restore, err := blockSignals()
	if err != nil {
		return
	}
	defer restore()
	sup.notifier.setSyncWakeup()
	var n notification
	for sup.next(&n) == nil {
		c := call{
			sup: sup, id: n.id, tid: int(n.pid), name: sup.names[n.nr], args: n.args, ip: n.ip,
			fd: -1, locked: true,
		}
		sup.counts[c.name]++
		sup.held.drop(c.tid)
		v, ok := sup.restarts.again(&c)
		if !ok {
			v = sup.handle(&c)
		}
		c.send(v)
	}
}

// next waits for a call, and handles the daemon's replies meanwhile.
func (sup *supervisor) next(n *notification) error {
	p := [3]unix.PollFd{
		{Fd: int32(sup.notifier.fd), Events: unix.POLLIN},
		{Fd: int32(sup.daemon.news), Events: unix.POLLIN},
		{Fd: -1, Events: unix.POLLIN},
	}
	for {
		session := sup.daemon.live()
		if p[2].Fd = -1; session != nil {
			p[2].Fd = int32(session.FD())
		}
		if _, err := unix.Poll(p[:], -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return err
		}
		if p[1].Revents != 0 {
			var b [8]byte
			_, _ = unix.Read(sup.daemon.news, b[:])
		}
		if p[2].Revents != 0 {
			session.Receive()
		}
		switch {
		case p[0].Revents&unix.POLLIN != 0:
			if err := sup.notifier.receive(n); err != unix.EINTR && err != unix.ENOENT {
				return err
			}
		case p[0].Revents != 0:
			return errNoMore
		}
	}
}

// end hands over to the daemon what the program has left, and waits for what still runs.
func (sup *supervisor) end() {
	sup.cancel()
	sup.held.dropAll()
	for _, s := range sup.table.all() {
		s.kind.gone()
	}
	sup.daemon.close()
	sup.wg.Wait()
	sup.voices.close()
	sup.procs.close()
	sup.summary()
}

// reap waits for the program, and for orphans that became children of the supervisor.
func (sup *supervisor) reap(program int) {
	defer sup.wg.Done()
	for {
		var ws unix.WaitStatus
		p, err := unix.Wait4(-1, &ws, unix.WUNTRACED, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		if ws.Stopped() {
			if p == program {
				sup.report(stageReport{Stopped: true})
			}
			continue
		}
		sup.sweepSoon()
		if p == program {
			if sup.holds() { // whoever starts it again wants its ports
				sup.sweepNow()
			}
			sup.report(stageReport{Ended: true, Status: uint32(ws), Left: sup.leftBehind()})
			if !sup.cfg.Verbose {
				discardStream(2)
			}
		}
	}
}

// leftBehind says whether anybody has the filter after the program's end. Those that end with it, as
// by a signal to all of them, have a moment to do so.
func (sup *supervisor) leftBehind() bool {
	const step, steps = 5, 4 // milliseconds
	for i := 0; ; i++ {
		for { // before Linux 6.11 those whose status nobody has taken still have it
			var ws unix.WaitStatus
			if p, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil); err != unix.EINTR && (err != nil || p <= 0) {
				break
			}
		}
		timeout := step
		if i == 0 {
			timeout = 0
		}
		p := [1]unix.PollFd{{Fd: int32(sup.notifier.fd)}}
		_, _ = unix.Poll(p[:], timeout)
		if p[0].Revents&unix.POLLHUP != 0 {
			return false
		}
		if i == steps {
			return true
		}
	}
}

// refreshEvery is how often the program's environment is held to the stack's state.
const refreshEvery = 5 * time.Second

// refresh follows the stack's addresses and DNS servers, which DHCP and router advertisements
// change, until the last process has ended. What cannot be changed stays as it was.
func (sup *supervisor) refresh() {
	defer sup.wg.Done()
	if sup.cfg.State == nil {
		return
	}
	ticker := time.NewTicker(refreshEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if st, err := sup.daemon.client.Status(sup.ctx); err == nil {
				_ = sup.env.update(st)
			}
		case <-sup.ctx.Done():
			return
		}
	}
}

// watchFront kills the program if the front is killed: to whoever did so they are one. After the
// program's own end it kills nobody. It ends with the front.
func (sup *supervisor) watchFront(pidfd int) {
	var b [1]byte
	_, _ = sup.front.Read(b[:])
	_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
}

// releaseStandardStreams lets go of the program's standard streams, so that whoever reads
// them sees their end. Standard error stays while the program lives.
func releaseStandardStreams() {
	discardStream(0)
	discardStream(1)
}

func discardStream(fd int) {
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	_ = unix.Dup3(null, fd, 0)
	unix.Close(null)
}
