package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// kernelNet is the kernel's own sockets, in the namespace of the process.
type kernelNet struct{}

func (kernelNet) ListenTCP(port int) (net.Listener, error) {
	return net.ListenTCP("tcp4", &net.TCPAddr{Port: port})
}

func (kernelNet) ListenUDP(port int) (datagrams, error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
	if err != nil {
		return nil, err
	}
	c.SetReadBuffer(udpBuffer) // as much as the kernel permits
	return c, nil
}

// udpBuffer is the receive buffer asked for on each side, in bytes.
const udpBuffer = 4 << 20

func (kernelNet) Close() error { return nil }

// Counters returns those of TCP in the namespace of the process, as nstat(8) names them.
func (kernelNet) Counters() (map[string]int64, error) {
	all := make(map[string]int64)
	for _, name := range []string{"snmp", "netstat"} {
		b, err := os.ReadFile("/proc/self/net/" + name)
		if err != nil {
			return nil, err
		}
		if err := parseCounters(string(b), all); err != nil {
			return nil, fmt.Errorf("/proc/self/net/%s: %w", name, err)
		}
	}
	return all, nil
}

// parseCounters reads what proc_pid_net(5) describes: pairs of lines, names and values.
func parseCounters(text string, into map[string]int64) error {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if len(names) != len(values) || len(names) == 0 || names[0] != values[0] {
			return fmt.Errorf("line %d and the next differ in what they hold", i+1)
		}
		group := strings.TrimSuffix(names[0], ":")
		if group != "Tcp" && group != "TcpExt" {
			continue
		}
		for j := 1; j < len(names); j++ {
			n, err := strconv.ParseInt(values[j], 10, 64)
			if err != nil {
				return fmt.Errorf("%s: %w", names[j], err)
			}
			if n != 0 {
				into[group+names[j]] = n
			}
		}
	}
	return nil
}
