package native

import (
	"encoding/csv"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// bind is one mount that the user asked for, by --bind, --mount or --scratch.
type bind struct {
	source, target string // as given; source is empty for a tmpfs
	readOnly       bool
	tmpfs          bool
	data           string // options of a tmpfs
}

// BindError is a --bind or --mount that cannot be understood or carried out.
type BindError struct {
	Spec   string // as the user gave it
	Reason string
	Cure   string
}

func (e *BindError) Error() string { return fmt.Sprintf("bind %q: %s", e.Spec, e.Reason) }

// Hint says how to write it, where that is known.
func (e *BindError) Hint() string { return e.Cure }

// maxBinds bounds what one option can ask for; the kernel allows 100 000 mounts.
const maxBinds = 10000

// parseBinds reads src[:dst[:opt[,opt…]]][,…]. A comma ends a bind, but for one
// followed by an option's name where options may stand. A backslash takes the
// next comma, colon or backslash as it is; before anything else it is itself.
func parseBinds(spec string) ([]bind, error) {
	var binds []bind
	var fields []string // source, destination, then options
	end := func() error {
		if len(fields) == 0 {
			return nil
		}
		b, err := newBind(fields)
		if err != nil {
			return err
		}
		if binds = append(binds, b); len(binds) > maxBinds {
			return &BindError{Spec: shorten(spec), Reason: "too many binds"}
		}
		fields = nil
		return nil
	}
	after := byte(',')
	for rest := spec; ; {
		word, sep, tail := cutWord(rest)
		word = strings.TrimSpace(word)
		switch {
		case after == ',' && len(fields) > 2 && isBindOption(word):
			fields = append(fields, word)
		case after == ':' && len(fields) > 2:
			return nil, &BindError{Spec: shorten(spec), Reason: "too many colons", Cure: bindForm}
		case after == ':':
			fields = append(fields, word)
		default:
			if err := end(); err != nil {
				return nil, err
			}
			if word != "" || sep == ':' {
				fields = append(fields, word)
			}
		}
		if sep == 0 {
			return binds, end()
		}
		after, rest = sep, tail
	}
}

const bindForm = `write --bind SOURCE[:DESTINATION[:ro]]; a comma or colon in a path needs a backslash`

// cutWord splits s at its first unescaped comma or colon, which it returns too;
// 0 at the end of s.
func cutWord(s string) (word string, sep byte, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s) && strings.IndexByte(`,:\`, s[i+1]) >= 0:
			i++
			b.WriteByte(s[i])
		case c == ',' || c == ':':
			return b.String(), c, s[i+1:]
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), 0, ""
}

func isBindOption(word string) bool {
	return word == "ro" || word == "rw" || strings.HasPrefix(word, "image-src=") || strings.HasPrefix(word, "id=")
}

func newBind(fields []string) (bind, error) {
	spec := strings.Join(fields[:min(3, len(fields))], ":")
	if len(fields) > 3 {
		spec += "," + strings.Join(fields[3:], ",")
	}
	b := bind{source: fields[0], target: fields[0]}
	if b.source == "" {
		return b, &BindError{Spec: spec, Reason: "the source is empty", Cure: bindForm}
	}
	if len(fields) > 1 && fields[1] != "" {
		b.target = fields[1]
	}
	for _, option := range fields[min(2, len(fields)):] {
		switch {
		case option == "ro":
			b.readOnly = true
		case option == "rw" || option == "":
		case isBindOption(option):
			return b, errImageBind(spec)
		default:
			return b, &BindError{Spec: spec, Reason: fmt.Sprintf("%s is not a valid bind option", option), Cure: bindForm}
		}
	}
	return b, nil
}

func errImageBind(spec string) error {
	return &BindError{Spec: spec, Reason: "binding from inside an image file is not supported",
		Cure: "unpack the image with: coracle build --sandbox DIR IMAGE, and bind a directory of it"}
}

// parseMount reads the CSV form of --mount.
func parseMount(spec string) ([]bind, error) {
	records, err := csv.NewReader(strings.NewReader(spec)).ReadAll()
	if err != nil {
		return nil, &BindError{Spec: shorten(spec), Reason: "error parsing mount: " + err.Error()}
	}
	var binds []bind
	for _, record := range records {
		b, err := newMount(shorten(spec), record)
		if err != nil {
			return nil, err
		}
		binds = append(binds, b)
	}
	return binds, nil
}

func newMount(spec string, record []string) (bind, error) {
	var b bind
	var options []string // of a tmpfs
	for _, field := range record {
		key, value, _ := strings.Cut(field, "=")
		reason := ""
		switch key {
		case "type":
			if b.tmpfs = value == "tmpfs"; !b.tmpfs && value != "bind" {
				reason = fmt.Sprintf("unsupported mount type %q, only 'bind' and 'tmpfs' are supported", value)
			}
		case "source", "src":
			if b.source = value; value == "" {
				reason = "mount source cannot be empty"
			}
		case "destination", "dst", "dest", "target": // dest is in SingularityCE's documentation, but not in its code
			if b.target = value; value == "" {
				reason = "mount destination cannot be empty"
			}
		case "ro", "readonly":
			b.readOnly = value == "" || value == "true" || value == "1"
		case "rw":
			b.readOnly = false
		case "tmpfs-size":
			options = append(options, "size="+value)
			if !isSize(value) {
				reason = fmt.Sprintf("%q is not a size such as 1g", value)
			}
		case "tmpfs-mode":
			options = append(options, "mode="+value)
			if _, err := strconv.ParseUint(value, 8, 12); err != nil {
				reason = fmt.Sprintf("%q is not an octal mode", value)
			}
		case "image-src", "id":
			return b, errImageBind(spec)
		case "bind-propagation":
			reason = "bind-propagation not supported for individual mounts"
		default:
			reason = fmt.Sprintf("invalid key %q in mount specification", key)
		}
		if reason != "" {
			return b, &BindError{Spec: spec, Reason: reason}
		}
	}
	if b.data = strings.Join(options, ","); b.data != "" && !b.tmpfs {
		return b, &BindError{Spec: spec, Reason: "tmpfs options need type=tmpfs"}
	}
	if b.target == "" || b.source == "" && !b.tmpfs {
		return b, &BindError{Spec: spec, Reason: "mounts must specify a source and a destination"}
	}
	if b.tmpfs {
		b.source = ""
	}
	return b, nil
}

// isSize tells a number with an optional k, m or g, or a percentage, as tmpfs takes it.
func isSize(s string) bool {
	digits := strings.TrimRight(s, "kKmMgG%")
	if len(s)-len(digits) > 1 {
		return false
	}
	_, err := strconv.ParseUint(digits, 10, 63)
	return err == nil
}

// userBinds parses all of --bind, then all of --mount.
func userBinds(o Options) ([]bind, error) {
	binds, err := parseBinds(strings.Join(o.Bind, ","))
	if err != nil {
		return nil, err
	}
	for _, m := range o.Mount {
		more, err := parseMount(m)
		if err != nil {
			return nil, err
		}
		binds = append(binds, more...)
	}
	for _, b := range binds {
		switch {
		case !path.IsAbs(b.target):
			return nil, &BindError{Spec: b.source + ":" + b.target, Reason: "the destination is not an absolute path", Cure: bindForm}
		case path.Clean(b.target) == "/":
			return nil, &BindError{Spec: b.source + ":" + b.target, Reason: "the destination is the root of the container"}
		case strings.IndexByte(b.target+b.source, 0) >= 0:
			return nil, &BindError{Spec: b.source + ":" + b.target, Reason: "there is a NUL byte in the path"}
		}
	}
	return binds, nil
}

// scratchDirs are the directories of --scratch.
func scratchDirs(o Options) ([]string, error) {
	var dirs []string
	for _, spec := range o.Scratch {
		for dir := range strings.SplitSeq(spec, ",") {
			if dir = strings.TrimSpace(dir); dir == "" {
				continue
			}
			// SingularityCE takes a relative one as if below the root too.
			if dir = path.Clean("/" + dir); dir == "/" {
				return nil, &BindError{Spec: spec, Reason: "the root of the container cannot be a scratch directory"}
			}
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// shorten keeps messages to a length that can be read.
func shorten(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
