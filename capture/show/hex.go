package show

import (
	"fmt"
	"strings"
)

// Hex returns bytes in hexadecimal, 16 a line as tcpdump's -x has them; with ascii as its -X
// does. Every line begins with a tab and ends with a newline.
func Hex(b []byte, ascii bool) string {
	var out strings.Builder
	for at := 0; at < len(b); at += 16 {
		row := b[at:min(len(b), at+16)]
		var hex, text strings.Builder
		for i, c := range row {
			if i%2 == 0 {
				hex.WriteByte(' ')
			}
			fmt.Fprintf(&hex, "%02x", c)
			if c < ' ' || c >= 0x7f {
				c = '.'
			}
			text.WriteByte(c)
		}
		if ascii {
			fmt.Fprintf(&out, "\t0x%04x: %-40s  %s\n", at, hex.String(), text.String())
		} else {
			fmt.Fprintf(&out, "\t0x%04x: %s\n", at, hex.String())
		}
	}
	return out.String()
}
