// Package getopt splits a command line the way getopt_long(3) does, for commands
// whose users know iputils and netcat: bundled and permuted flags.
package getopt

import (
	"fmt"
	"strings"
)

// An Option is one flag as given: the letter or the long name, without dashes.
type Option struct {
	Name, Value string
}

// Parse splits arguments as getopt_long(3) does with permutation: short flags may be
// bundled (-nq), a value may be attached (-c3), operands may stand between flags,
// and "--" ends the flags. In short a letter followed by ':' takes a value; long
// says of each long name whether it takes one.
func Parse(args []string, short string, long map[string]bool) (opts []Option, operands []string, err error) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			return opts, append(operands, args[i+1:]...), nil
		case strings.HasPrefix(a, "--"):
			name, value, attached := strings.Cut(a[2:], "=")
			takes, known := long[name]
			if !known {
				return nil, nil, fmt.Errorf("unknown option --%s", name)
			}
			if attached && !takes {
				return nil, nil, fmt.Errorf("option --%s takes no value", name)
			}
			if takes && !attached {
				if i++; i == len(args) {
					return nil, nil, fmt.Errorf("option --%s needs a value", name)
				}
				value = args[i]
			}
			opts = append(opts, Option{name, value})
		case len(a) > 1 && a[0] == '-':
			for j := 1; j < len(a); j++ {
				k := strings.IndexByte(short, a[j])
				if k < 0 || a[j] == ':' {
					return nil, nil, fmt.Errorf("unknown option -%c", a[j])
				}
				name := a[j : j+1]
				if k+1 == len(short) || short[k+1] != ':' {
					opts = append(opts, Option{name, ""})
					continue
				}
				value := a[j+1:]
				if value == "" {
					if i++; i == len(args) {
						return nil, nil, fmt.Errorf("option -%s needs a value", name)
					}
					value = args[i]
				}
				opts = append(opts, Option{name, value})
				break
			}
		default:
			operands = append(operands, a)
		}
	}
	return opts, operands, nil
}
