// Package tapendpoint makes a link.Device the Ethernet interface of a gVisor
// netstack: it is the only place where frames become packets.
//
// An Endpoint adds the 14-byte Ethernet header to what the stack sends and takes
// it off what the device delivers, skips and counts frames for other stations,
// and translates offload metadata both ways. A frame is copied once on its way
// in, and not at all on its way out. Where the device has no segmentation offloads,
// TCP segments are merged on the way in, and super-frames cut on the way out, here.
package tapendpoint

import (
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/ustack/ustack/link"
)

// Config configures New. Device and HardwareAddr are required.
type Config struct {
	// Device is read and written by the endpoint, and closed by Stop.
	Device link.Device
	// HardwareAddr is the stack's own Ethernet address: 6 bytes, unicast, and
	// other than the Device's.
	HardwareAddr net.HardwareAddr
	// MTU in bytes; 0 takes the Device's. It cannot exceed the Device's.
	MTU int
	// OnARP, if set, sees the sender of every ARP packet that is not our own. It
	// is called by the goroutine that delivers frames and must not block.
	OnARP func(senderIP [4]byte, senderMAC [6]byte)
	// OnNeighbourAdvert, if set, sees every IPv6 neighbour advertisement (RFC 4861
	// section 4.4) that is not our own, in the same way: netstack drops those that
	// a station with our own address sends from it.
	OnNeighbourAdvert func(target [16]byte, senderMAC [6]byte)
	// Observers are told what becomes of each frame; nil is nobody.
	Observers *link.Observers
	// Logger may be nil.
	Logger *slog.Logger
}

// An Endpoint is a gstack.LinkEndpoint on top of a link.Device.
//
// Closing order: call Stop before the stack removes the NIC. netstack holds its
// own lock while it detaches and waits for an endpoint, and delivering a packet
// takes that lock, so an endpoint that stops only then can deadlock.
type Endpoint struct {
	dev    link.Device
	info   link.Info
	queues []link.Queue
	log    *slog.Logger
	onARP  func(ip [4]byte, mac [6]byte)
	onNA   func(target [16]byte, mac [6]byte)
	merge  bool // segments read are merged here

	observers *link.Observers
	txObserve txObserve

	mtu   atomic.Uint32
	stats counters

	// vouched orders frames whose checksums someone vouched for (readers) against
	// those which netstack must verify (writer). netstack asks Capabilities for
	// each packet, see verify.
	vouched sync.RWMutex
	// verify is set, under vouched's write lock, while netstack is to verify the
	// checksums of the packet being delivered.
	verify atomic.Bool

	mu         sync.RWMutex
	mac        tcpip.LinkAddress
	dispatcher gstack.NetworkDispatcher
	started    bool
	stopped    bool

	readers sync.WaitGroup
	done    chan struct{} // closed when the device has ended
	endOnce sync.Once
	err     error // why it ended, set before done is closed
}

var (
	_ gstack.LinkEndpoint = (*Endpoint)(nil)
	_ gstack.GSOEndpoint  = (*Endpoint)(nil)
)

// GSOMaxSize bounds the payload of super-frames sent, in bytes: with all headers
// they still fit the 16 bits of IPv4's total length.
const GSOMaxSize = 65535

// New returns an endpoint that begins to read with Start.
func New(cfg Config) (*Endpoint, error) {
	info := cfg.Device.Info()
	if err := CheckHardwareAddr(cfg.HardwareAddr); err != nil {
		return nil, fmt.Errorf("tapendpoint: %s: %w", info.Name, err)
	}
	if cfg.HardwareAddr.String() == info.HardwareAddr.String() {
		return nil, fmt.Errorf("tapendpoint: %s: hardware address %v is the host's own on this link; the stack needs another", info.Name, cfg.HardwareAddr)
	}
	mtu := cfg.MTU
	if mtu == 0 {
		mtu = info.MTU
	}
	if err := link.CheckMTU(mtu); err != nil {
		return nil, fmt.Errorf("tapendpoint: %s: %w", info.Name, err)
	}
	if mtu > info.MTU {
		return nil, fmt.Errorf("tapendpoint: %s: MTU %d is more than the link's %d bytes; raise the link's first", info.Name, mtu, info.MTU)
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	e := &Endpoint{
		dev:    cfg.Device,
		info:   info,
		queues: cfg.Device.Queues(),
		log:    log.With("link", info.Name),
		onARP:  cfg.OnARP,
		onNA:   cfg.OnNeighbourAdvert,
		merge:  !info.RX.Has(link.OffloadTSO4 | link.OffloadTSO6),
		mac:    tcpip.LinkAddress(cfg.HardwareAddr),
		done:   make(chan struct{}),

		observers: cfg.Observers,
	}
	e.mtu.Store(uint32(mtu))
	if !info.TX.Has(link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6) {
		// One super-frame that is cut last costs half of what netstack's own
		// segmentation does, which has a packet for each segment.
		e.dev = link.Complete(e.dev, info.RX)
		e.queues = e.dev.Queues()
	}
	return e, nil
}

// CheckHardwareAddr returns an error unless mac can be a station's own address:
// 6 bytes, not multicast, not all zero (IEEE 802, clause 8.2).
func CheckHardwareAddr(mac net.HardwareAddr) error {
	switch {
	case len(mac) != header.EthernetAddressSize:
		return fmt.Errorf("hardware address %q has %d bytes, Ethernet needs 6", mac, len(mac))
	case mac[0]&1 != 0:
		return fmt.Errorf("hardware address %v is a multicast address; use a unicast one such as 02:00:00:00:00:01", mac)
	case tcpip.LinkAddress(mac) == header.UnspecifiedEthernetAddress:
		return fmt.Errorf("hardware address %v is not an address; use one such as 02:00:00:00:00:01", mac)
	}
	return nil
}

// Stop closes the device and waits until no frame is being delivered any more.
// Call it before the stack removes the NIC. It is harmless to call it twice.
func (e *Endpoint) Stop() error {
	e.mu.Lock()
	e.stopped = true
	e.mu.Unlock()
	err := e.dev.Close()
	e.readers.Wait()
	e.end(link.ErrClosed)
	return err
}

// Done is closed when the device has ended, by Stop or by itself.
func (e *Endpoint) Done() <-chan struct{} { return e.done }

// Err returns why the device ended: link.ErrClosed after Stop, else an error that
// wraps link.ErrGone. It is nil until Done is closed.
func (e *Endpoint) Err() error {
	select {
	case <-e.done:
		return e.err
	default:
		return nil
	}
}

func (e *Endpoint) end(err error) {
	e.endOnce.Do(func() {
		e.err = err
		close(e.done)
	})
}

// Attach implements gstack.LinkEndpoint. Nothing is read before Start.
func (e *Endpoint) Attach(d gstack.NetworkDispatcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dispatcher = d
}

// Start begins to read, with one goroutine for each queue. Call it when the stack
// is attached and set up.
func (e *Endpoint) Start() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.started || e.stopped {
		return
	}
	e.started = true
	for queue := range e.queues {
		e.readers.Go(func() { e.read(queue) })
	}
}

// IsAttached implements gstack.LinkEndpoint.
func (e *Endpoint) IsAttached() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.dispatcher != nil
}

// Wait implements gstack.LinkEndpoint. It returns at once: waiting for readers
// here can deadlock, that is what Stop is for.
func (e *Endpoint) Wait() {}

// Close implements gstack.LinkEndpoint. The device is closed by Stop.
func (e *Endpoint) Close() {}

// SetOnCloseAction implements gstack.LinkEndpoint.
func (e *Endpoint) SetOnCloseAction(func()) {}

// MTU implements gstack.LinkEndpoint: bytes without the Ethernet header.
func (e *Endpoint) MTU() uint32 { return e.mtu.Load() }

// SetMTU implements gstack.LinkEndpoint. A value above the device's is cut to it.
func (e *Endpoint) SetMTU(mtu uint32) { e.mtu.Store(min(mtu, uint32(e.info.MTU))) }

// MaxHeaderLength implements gstack.LinkEndpoint.
func (e *Endpoint) MaxHeaderLength() uint16 { return header.EthernetMinimumSize }

// LinkAddress implements gstack.LinkEndpoint.
func (e *Endpoint) LinkAddress() tcpip.LinkAddress {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.mac
}

// SetLinkAddress implements gstack.LinkEndpoint.
func (e *Endpoint) SetLinkAddress(mac tcpip.LinkAddress) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mac = mac
}

// Capabilities implements gstack.LinkEndpoint. netstack asks it for every packet
// it receives, which is what lets a packet be verified or not, see receive.
//
// Checksum offload on transmit is not among them: together with host GSO,
// SYN-ACKs would leave with a zero checksum.
func (e *Endpoint) Capabilities() gstack.LinkEndpointCapabilities {
	c := gstack.LinkEndpointCapabilities(gstack.CapabilityResolutionRequired)
	if !e.verify.Load() {
		c |= gstack.CapabilityRXChecksumOffload
	}
	return c
}

// GSOMaxSize implements gstack.GSOEndpoint, in bytes.
func (e *Endpoint) GSOMaxSize() uint32 { return GSOMaxSize }

// SupportedGSO implements gstack.GSOEndpoint. What the device does not take of a
// super-frame is finished by link.Complete.
func (e *Endpoint) SupportedGSO() gstack.SupportedGSO { return gstack.HostGSOSupported }

// ARPHardwareType implements gstack.LinkEndpoint.
func (e *Endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements gstack.LinkEndpoint.
func (e *Endpoint) AddHeader(pkt *gstack.PacketBuffer) {
	eth := header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize))
	eth.Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

// ParseHeader implements gstack.LinkEndpoint.
func (e *Endpoint) ParseHeader(pkt *gstack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}

// Queues returns the number of the device's queues.
func (e *Endpoint) Queues() int { return len(e.queues) }
