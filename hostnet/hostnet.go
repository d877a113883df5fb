// Package hostnet is the host's side of a tap: it brings the interface up, gives
// it the host's addresses, and leads the stack behind it outwards, either by
// forwarding and masquerade out of an uplink or as a port of a Linux bridge.
//
// It works in the network namespace of the calling thread, over rtnetlink,
// nf_tables and /proc/sys/net. What is already as wanted is left alone and needs
// no privilege: on a tap prepared for its user a process without any capability
// can call Setup. What had to be changed is undone by Close in reverse order, and
// nothing else is.
//
// # After a SIGKILL
//
// Every change is written to a journal and synced before it is made. The journal
// is a file of its own in Config.StateDir for each Host, locked with flock(2)
// while the Host lives. Setup undoes what the journals of dead processes list, as
// far as they belong to its own network namespace. The masquerade needs no
// journal: its nftables table is owned by a netlink socket (NFT_TABLE_F_OWNER)
// and vanishes with it.
//
// Forwarding is shared: the last Host of a StateDir that needs it turns it back
// off. A program outside ustack that relies on forwarding which a Host turned on
// must turn it on itself before.
package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// UplinkAuto as Config.Uplink stands for the interface of the default route, the
// IPv4 one before the IPv6 one and the lowest metric first. An interface that is
// really called so comes before.
const UplinkAuto = "auto"

// ErrConfig is wrapped by errors about a Config that could work on no host.
var ErrConfig = errors.New("invalid configuration")

// A Config says what the host's side of a tap is to look like.
type Config struct {
	// Tap is the name of an existing interface. A non-persistent tap exists as
	// long as it is open, so it is opened before Setup.
	Tap string
	// Addrs are the host's own addresses on Tap, with the prefix length of the
	// network they share with the stack: 10.0.0.5/24.
	Addrs []netip.Prefix
	// Explicit says that somebody asked for Addrs. An address that cannot be
	// given is then an error; else, being only a default, a warning.
	Explicit bool
	// MTU of Tap in bytes; 0 leaves it as it is.
	MTU int
	// Uplink is the interface through which the host reaches other networks, or
	// UplinkAuto. With it, forwarding is turned on and what comes from Networks is
	// masqueraded behind the uplink's address. Empty for neither.
	Uplink string
	// Bridge is a Linux bridge that takes Tap as a port. It excludes Uplink and
	// Explicit addresses; default Addrs are left out, as the addresses of a port
	// answer nobody.
	Bridge string
	// Networks are the stack's networks, or its addresses with their prefix
	// length. With Uplink they are masqueraded, and routed to Tap where no host
	// address does that already. IPv6 ones are masqueraded too.
	Networks []netip.Prefix
	// StateDir holds the journals. Empty stands for /run/ustack as root,
	// $XDG_RUNTIME_DIR/ustack otherwise, and ustack-UID in the directory for
	// temporary files where neither can be made. It is created when needed, mode
	// 0700.
	StateDir string
	// Logger gets each change and its undoing at level debug. Nil discards.
	Logger *slog.Logger
}

// A Host is a host's side that has been set up. Its methods may be called from
// any goroutine.
type Host struct {
	cfg    Config
	log    *slog.Logger
	nl     *netlink.Handle
	ns     namespace
	state  *stateDir
	uplink string

	mu       sync.Mutex // guards everything below once Setup has returned
	closed   bool
	closeErr error
	journal  *journal // nil while nothing was changed
	done     []change
	warnings []string
	nft      *nftables.Conn // owns our table; nil without one
	table    *nftables.Table
}

// Setup makes the host's side as cfg says. If it returns an error, everything it
// did is undone. An error that wraps ErrConfig is about cfg alone; one that wraps
// os.ErrPermission names the commands that somebody with CAP_NET_ADMIN can run
// instead. First of all it undoes what dead processes left behind.
func Setup(cfg Config) (*Host, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("hostnet: %w: %w", ErrConfig, err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	h := &Host{cfg: cfg, log: cfg.Logger}
	var err error
	if h.ns, err = currentNamespace(); err != nil {
		return nil, fmt.Errorf("hostnet: %w", err)
	}
	if h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		h.ns.close()
		return nil, fmt.Errorf("hostnet: open a netlink socket: %w", err)
	}
	h.state = newStateDir(cfg.StateDir)
	err = h.setup()
	if err != nil {
		err = fmt.Errorf("hostnet: %w", err)
		if undo := h.undoAll(); undo != nil {
			err = fmt.Errorf("%w; and undoing the rest: %w", err, undo)
		}
		h.state.unlock()
		h.release()
		return nil, err
	}
	h.state.unlock()
	return h, nil
}

func (h *Host) setup() error {
	if err := h.state.open(false); err != nil {
		h.warn("leftovers of earlier runs cannot be looked for: %v", err)
	} else {
		h.recover()
	}
	tap, err := h.link(h.cfg.Tap)
	if err != nil {
		return err
	}
	if err := h.setupTap(tap); err != nil {
		return err
	}
	if h.cfg.Bridge != "" {
		return h.setupBridge(tap)
	}
	if h.cfg.Uplink != "" {
		return h.setupUplink(tap)
	}
	return nil
}

// Close undoes what Setup changed, in reverse order and as far as it is still as
// Setup left it. The tap may be gone already. A second Close returns what the
// first did. What could not be undone stays in the journal for the next start.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return h.closeErr
	}
	h.closed = true
	err := h.ns.do(func() error {
		if h.journal != nil {
			if err := h.state.open(true); err != nil {
				h.log.Debug("hostnet: state directory", "err", err)
			}
			defer h.state.unlock()
		}
		return h.undoAll()
	})
	if err != nil {
		h.closeErr = fmt.Errorf("hostnet: undo: %w", err)
	}
	h.release()
	return h.closeErr
}

// release frees what a Host holds open.
func (h *Host) release() {
	if h.nft != nil {
		h.nft.CloseLasting()
		h.nft = nil
	}
	h.nl.Close()
	h.ns.close()
}

// Warnings returns what did not stop Setup but the user should know, one line
// each.
func (h *Host) Warnings() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.warnings)
}

// Changes returns what Setup changed and Close will undo, one line each in order,
// in the words of ip(8), sysctl(8) and nft(8).
func (h *Host) Changes() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]string, 0, len(h.done))
	for _, c := range h.done {
		out = append(out, c.String())
	}
	return out
}

// Uplink returns the name of the uplink in use, "" without one.
func (h *Host) Uplink() string { return h.uplink }

func (h *Host) warn(format string, args ...any) {
	h.warnings = append(h.warnings, fmt.Sprintf(format, args...))
}

// do writes c to the journal, then makes the change by apply.
func (h *Host) do(c change, apply func() error) error {
	if h.journal == nil {
		if err := h.state.open(true); err != nil {
			return fmt.Errorf("%s: a journal is needed to undo it: %w", c, err)
		}
		j, err := h.state.create(h.ns, h.cfg.Tap)
		if err != nil {
			return fmt.Errorf("%s: a journal is needed to undo it: %w", c, err)
		}
		h.journal = j
	}
	c.N = h.journal.next()
	if err := h.journal.append(c); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	if err := apply(); err != nil {
		if jerr := h.journal.append(change{Op: opUndone, N: c.N}); jerr != nil {
			h.log.Debug("hostnet: journal", "err", jerr)
		}
		return err
	}
	h.log.Debug("hostnet: changed", "change", c.String())
	h.done = append(h.done, c)
	return nil
}

// undoAll undoes h.done in reverse order. The journal goes when nothing is left.
func (h *Host) undoAll() error {
	var errs []string
	var perm bool
	for i, c := range slices.Backward(h.done) {
		if err := h.undo(c, h.journal); err != nil {
			errs = append(errs, fmt.Sprintf("%s: %v", c, err))
			perm = perm || isPermission(err)
			continue
		}
		h.log.Debug("hostnet: undone", "change", c.String())
		h.done = slices.Delete(h.done, i, i+1)
		if err := h.journal.append(change{Op: opUndone, N: c.N}); err != nil {
			h.log.Debug("hostnet: journal", "err", err)
		}
	}
	if h.journal != nil {
		h.journal.close(len(errs) == 0)
		h.journal = nil
	}
	if len(errs) == 0 {
		return nil
	}
	err := errors.New(strings.Join(errs, "; "))
	if perm {
		return fmt.Errorf("%w (CAP_NET_ADMIN is needed)", err)
	}
	return err
}

func (cfg *Config) validate() error {
	if err := validLinkName(cfg.Tap); err != nil {
		return fmt.Errorf("tap: %w", err)
	}
	for _, p := range cfg.Addrs {
		if !p.IsValid() || p.Addr().IsUnspecified() || p.Addr().IsMulticast() || p.Addr().Zone() != "" {
			return fmt.Errorf("host address %v: want an address of the host with a prefix length, such as 10.0.0.5/24", p)
		}
		if p.Addr().Is4() && p.Bits() < 31 && p.Addr() == p.Masked().Addr() {
			return fmt.Errorf("host address %v is its network's own: want a host's, such as %v", p, netip.PrefixFrom(p.Addr().Next(), p.Bits()))
		}
		if p.Addr().Is4In6() {
			return fmt.Errorf("host address %v: write it as IPv4", p)
		}
		if p.Addr().Is6() && cfg.MTU != 0 && cfg.MTU < 1280 {
			return fmt.Errorf("host address %v with MTU %d: IPv6 needs 1280 (RFC 8200 section 5)", p, cfg.MTU)
		}
	}
	for _, p := range cfg.Networks {
		if !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
			return fmt.Errorf("network %v: want an address with a prefix length, such as 10.0.0.0/24", p)
		}
	}
	if cfg.MTU != 0 && (cfg.MTU < 68 || cfg.MTU > 65535) {
		return fmt.Errorf("MTU %d: want 68 to 65535", cfg.MTU)
	}
	if cfg.Uplink != "" {
		if err := validLinkName(cfg.Uplink); err != nil {
			return fmt.Errorf("uplink: %w", err)
		}
		if cfg.Uplink == cfg.Tap {
			return fmt.Errorf("uplink %s is the tap itself: name the interface that leads outwards", cfg.Uplink)
		}
		if len(cfg.Networks) == 0 {
			return fmt.Errorf("uplink %s without a network of the stack's to masquerade: give the stack an address", cfg.Uplink)
		}
	}
	if cfg.Bridge == "" {
		return nil
	}
	if err := validLinkName(cfg.Bridge); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	switch {
	case cfg.Bridge == cfg.Tap:
		return fmt.Errorf("bridge %s is the tap itself", cfg.Bridge)
	case cfg.Uplink != "":
		return fmt.Errorf("bridge %s and uplink %s exclude each other: the stack is either a station of the bridged network or behind the host's masquerade", cfg.Bridge, cfg.Uplink)
	case cfg.Explicit && len(cfg.Addrs) > 0:
		return fmt.Errorf("bridge %s and host address %v exclude each other: a bridge port answers to no address; the host's belongs on the bridge: ip addr add %v dev %s", cfg.Bridge, cfg.Addrs[0], cfg.Addrs[0], cfg.Bridge)
	}
	return nil
}

// validLinkName holds a name to what the kernel takes (dev_valid_name in
// net/core/dev.c), so that it can be part of a path below /proc/sys.
func validLinkName(name string) error {
	switch {
	case name == "":
		return errors.New("an interface name is needed")
	case len(name) >= unix.IFNAMSIZ:
		return fmt.Errorf("%q is no interface name: at most %d bytes", name, unix.IFNAMSIZ-1)
	case name == ".", name == "..", strings.ContainsAny(name, "/: \t\n\v\f\r\x00"):
		return fmt.Errorf("%q is no interface name: no blank, slash or colon", name)
	}
	return nil
}
