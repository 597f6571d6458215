package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/coracle-runtime/coracle/native"
	"github.com/coracle-runtime/coracle/oci"
	"github.com/coracle-runtime/coracle/userns"
)

// runInternal runs `coracle x name args…`: the hidden commands that Coracle
// starts as its own processes. They skip the flag parser.
func runInternal(name string, args []string) int {
	var err error
	switch name {
	case "init":
		if oci.Init(args, resolve) != nil {
			return exitFatal // the caller has been told, and says it
		}
	case "fuse":
		err = oci.ServeFUSE()
	case "guard":
		err = oci.Guard()
	case "probe":
		return userns.ProbeChild(args[0])
	case "hello":
		return runHello()
	default:
		err = fmt.Errorf("unknown")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "coracle x %s: %v\n", name, err)
		return exitFatal
	}
	return 0
}

// resolve is native.Resolve, and ends the process where the image's scripts ask
// for that: their status is the container's.
func resolve(action json.RawMessage, p *oci.Process, warn func(string)) error {
	err := native.Resolve(action, p, warn)
	var exit *native.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.Code)
	}
	return err
}
