package tap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/ustack/ustack/internal/ifwatch"
	"github.com/ustack/ustack/link"
)

// A device is what both drivers share: the state and the end of a tap.
type device struct {
	link.Counters
	info    link.Info
	queues  []link.Queue
	files   []*os.File
	errGone error            // wraps link.ErrGone
	watch   *ifwatch.Watcher // of an interface whose end the descriptor does not tell, or nil

	closed atomic.Bool
	gone   atomic.Bool
	close  sync.Once
	err    error // of the first Close; guarded by close
}

func (d *device) Info() link.Info {
	i := d.info
	i.HardwareAddr, i.Station = bytes.Clone(i.HardwareAddr), bytes.Clone(i.Station)
	return i
}

func (d *device) Queues() []link.Queue { return d.queues }

// Close waits for system calls in progress. It first lets all queues go, so that
// no Read is left waiting while another queue's is awaited.
func (d *device) Close() error {
	d.close.Do(func() {
		d.closed.Store(true)
		for _, f := range d.files {
			if err := f.Close(); err != nil {
				d.err = errors.Join(d.err, fmt.Errorf("tap %s: %w", d.info.Name, err))
			}
		}
		for _, q := range d.queues {
			q.(*queue).many.close()
		}
		if d.watch != nil {
			d.watch.Close()
		}
	})
	return d.err
}

// ended returns the error that ended the device, or nil.
func (d *device) ended() error {
	switch {
	case d.closed.Load():
		return link.ErrClosed
	case d.gone.Load():
		if d.closed.Load() { // meanwhile, and what looked gone was closing
			return link.ErrClosed
		}
		return d.errGone
	}
	return nil
}

// end records that the wire is gone and returns what to tell the caller.
func (d *device) end() error {
	d.gone.Store(true)
	return d.ended()
}

// describe fills in what the interface behind fd is.
func (d *device) describe(fd int, cfg *Config, driver, name string, offloads offloads) error {
	d.errGone = fmt.Errorf("tap %s: %w: the interface was deleted", name, link.ErrGone)
	d.info = link.Info{Name: name, Kind: "tap", Driver: driver, RX: offloads.rx, TX: offloads.tx}
	var err error
	if d.info.MTU, err = setupMTU(name, cfg.MTU); err != nil {
		return fmt.Errorf("tap %s: %w", name, err)
	}
	if d.info.HardwareAddr, err = hardwareAddr(fd); err != nil {
		return fmt.Errorf("tap %s: %w", name, err)
	}
	if err := lengthen(fd, name); err != nil {
		cfg.Logger.Debug("the tap's queue stays short", "tap", name, "err", err)
	}
	return nil
}

type offloads struct{ rx, tx link.Offloads }
