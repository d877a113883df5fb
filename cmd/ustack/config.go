package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/pflag"
)

// maxConfig bounds the size of a configuration file, in bytes.
const maxConfig = 1 << 20

// notInConfig are the flags that make no sense inside of the file.
var notInConfig = []string{"config", "help", "verbose"}

// origins says where each setting was written, for error messages: "--addr" or
// "ustack.toml:3: addr".
type origins map[string]string

func (o origins) of(name string) string {
	if where, ok := o[name]; ok {
		return where
	}
	return "--" + name
}

// loadConfig reads the TOML file at path and sets the flags in fs that it names
// and that the command line does not. All of it goes through the flags' own
// parsers, so file and command line mean the same. Errors begin with FILE:LINE.
func loadConfig(path string, fs *pflag.FlagSet) (origins, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, usagef("--config: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxConfig {
		return nil, usagef("--config: %s is not a configuration file: a regular file of at most %s is expected", path, size(maxConfig))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usagef("--config: %w", err)
	}
	return applyConfig(path, string(text), fs)
}

// applyConfig is loadConfig after reading.
func applyConfig(path, text string, fs *pflag.FlagSet) (origins, error) {
	var values map[string]any
	if _, err := toml.Decode(text, &values); err != nil {
		var perr toml.ParseError
		if errors.As(err, &perr) {
			return nil, usagef("%s:%d: %s", path, perr.Position.Line, strings.TrimSuffix(perr.Message, "."))
		}
		return nil, usagef("%s: %w", path, err)
	}
	from := origins{}
	for _, key := range sortedKeys(values) {
		where := fmt.Sprintf("%s:%d: %s", path, keyLine(text, key), key)
		flag := fs.Lookup(key)
		if flag == nil || slices.Contains(notInConfig, key) {
			return nil, unknownKey(where, key, fs)
		}
		if flag.Changed {
			continue
		}
		from[key] = where
		if err := setFlag(flag, values[key]); err != nil {
			return nil, usagef("%s: %w", where, err)
		}
	}
	return from, nil
}

func unknownKey(where, key string, fs *pflag.FlagSet) error {
	var names []string
	fs.VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(notInConfig, f.Name) {
			names = append(names, f.Name)
		}
	})
	if best := nearest(strings.ReplaceAll(key, "_", "-"), names); best != "" {
		return usagef("%s: unknown key: did you mean %s?", where, best)
	}
	return usagef("%s: unknown key: use one of %s", where, strings.Join(names, ", "))
}

// setFlag gives a flag a value as TOML decodes it.
func setFlag(flag *pflag.Flag, value any) error {
	if list, ok := flag.Value.(pflag.SliceValue); ok {
		var items []any
		switch v := value.(type) {
		case []any:
			items = v
		default:
			items = []any{v}
		}
		texts := make([]string, 0, len(items))
		for _, item := range items {
			s, ok := item.(string)
			if !ok {
				return fmt.Errorf("%v is not a string: write it in quotes", item)
			}
			texts = append(texts, s)
		}
		return list.Replace(texts)
	}
	switch kind := flag.Value.Type(); v := value.(type) {
	case string:
		if kind == "string" {
			return flag.Value.Set(v)
		}
	case bool:
		if kind == "bool" {
			return flag.Value.Set(strconv.FormatBool(v))
		}
	case int64:
		switch {
		case kind == "int":
			return flag.Value.Set(strconv.FormatInt(v, 10))
		case flag.Name == "socket-mode":
			// TOML writes octal as 0o660.
			return flag.Value.Set(fmt.Sprintf("%04o", v))
		}
	}
	return fmt.Errorf("%v is not %s", value, valueKinds[flag.Value.Type()])
}

// keyLine returns the line, from 1, on which a top-level key or table is written.
func keyLine(text, key string) int {
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, maxConfig+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimLeft(lines.Text(), " \t[")
		for _, spelled := range []string{key, strconv.Quote(key), "'" + key + "'"} {
			rest, ok := strings.CutPrefix(line, spelled)
			if rest = strings.TrimLeft(rest, " \t"); ok && rest != "" && strings.ContainsRune("=.]", rune(rest[0])) {
				return n
			}
		}
	}
	return 1
}
