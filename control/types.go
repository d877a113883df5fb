package control

import (
	"net/netip"
	"time"
)

// Status is what `ustack status` shows.
type Status struct {
	Version string        `json:"version"`
	PID     int           `json:"pid"`
	Started time.Time     `json:"started"`
	Uptime  time.Duration `json:"uptime_ns"`
	Links   []Link        `json:"links"`
	Addrs   []Addr        `json:"addrs"`
	Routes  []Route       `json:"routes"`
	DNS     []string      `json:"dns"` // IP:PORT
	// DNSBorrowed says that nobody named these servers: they are the host's own.
	DNSBorrowed bool     `json:"dns_borrowed,omitempty"`
	Search      []string `json:"search,omitempty"`
	// Warnings are conditions the user should know of, such as a duplicate address.
	Warnings []string `json:"warnings,omitempty"`
	Sockets  int      `json:"sockets"`
	Flows    int      `json:"flows"`
}

// A Link is one network interface of the stack.
type Link struct {
	Name         string `json:"name"`           // the stack's name of it: "tap0", "lo"
	Spec         string `json:"spec,omitempty"` // as given to --link
	Kind         string `json:"kind"`           // "tap", "loopback"
	Driver       string `json:"driver,omitempty"`
	HardwareAddr string `json:"hardware_addr,omitempty"` // the stack's own MAC
	MTU          int    `json:"mtu"`
	State        string `json:"state"`         // "up", "down" (on the host), "waiting" (for the far end), "gone"
	Why          string `json:"why,omitempty"` // of "waiting"
	Queues       int    `json:"queues,omitempty"`
	OffloadsRX   string `json:"offloads_rx,omitempty"`
	OffloadsTX   string `json:"offloads_tx,omitempty"`
	RxFrames     uint64 `json:"rx_frames"`
	RxBytes      uint64 `json:"rx_bytes"`
	TxFrames     uint64 `json:"tx_frames"`
	TxBytes      uint64 `json:"tx_bytes"`
	// Drops counts frames that were not passed on, by reason.
	Drops map[string]uint64 `json:"drops,omitempty"`
}

// An Addr is an address of the stack.
type Addr struct {
	Link   string       `json:"link"`
	Prefix netip.Prefix `json:"prefix"`
	// Origin is "static", "dhcp", "slaac", "link-local" or "loopback".
	Origin string `json:"origin"`
	// State is "assigned", "tentative" (being checked for duplicates),
	// "deprecated" or "duplicate".
	State string `json:"state"`
	// ValidUntil is zero where the address does not expire.
	ValidUntil time.Time `json:"valid_until,omitzero"`
}

// A Route is a row of the stack's routing table.
type Route struct {
	Dst netip.Prefix `json:"dst"`
	// Gateway is the zero Addr for a directly connected network.
	Gateway netip.Addr `json:"gateway,omitzero"`
	Link    string     `json:"link,omitempty"`
	// Origin is "static", "connected", "dhcp" or "ra".
	Origin string `json:"origin,omitempty"`
}

// A Neighbour is an entry of the ARP or NDP table.
type Neighbour struct {
	Link         string     `json:"link,omitempty"`
	IP           netip.Addr `json:"ip"`
	HardwareAddr string     `json:"hardware_addr,omitempty"`
	// State is iproute2's word in lower case: "reachable", "stale", "delay",
	// "probe", "incomplete", "failed", "permanent".
	State   string    `json:"state,omitempty"`
	Updated time.Time `json:"updated,omitzero"`
}

// A SocketInfo is one socket of the stack, as ss shows it.
type SocketInfo struct {
	Network string `json:"network"` // "tcp", "udp", "icmp"
	// State is ss's word: "ESTAB", "LISTEN", "TIME-WAIT", "SYN-SENT", "UNCONN" ….
	State  string `json:"state"`
	Local  string `json:"local"`            // IP:PORT
	Remote string `json:"remote,omitempty"` // IP:PORT
	RecvQ  int    `json:"recv_q"`           // bytes received and not yet read
	SendQ  int    `json:"send_q"`           // bytes written and not yet acknowledged
	// Owner says who holds it, such as "pid 1234 (curl)", set by the Server.
	Owner string `json:"owner,omitempty"`
}

// Stats are the stack's counters, nested by layer as netstack names them, such as
// "ip.packets_received"; only those that are not zero.
type Stats struct {
	Counters map[string]uint64 `json:"counters"`
	// Process figures, for finding leaks.
	Goroutines  int    `json:"goroutines"`
	Descriptors int    `json:"descriptors"`
	RSS         uint64 `json:"rss_bytes"`
	Flows       int    `json:"flows"`
}
