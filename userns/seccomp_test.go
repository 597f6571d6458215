package userns

import (
	"encoding/json"
	"slices"
	"testing"
)

func TestNestingProfile(t *testing.T) {
	b, err := NestingProfile()
	if err != nil {
		t.Fatal(err)
	}
	var profile struct {
		DefaultAction string
		Syscalls      []struct {
			Names              []string
			Action             string
			Args               []any
			Includes, Excludes any
		}
	}
	if err := json.Unmarshal(b, &profile); err != nil {
		t.Fatal(err)
	}
	free := func(name string) bool {
		for _, s := range profile.Syscalls {
			if s.Action == "SCMP_ACT_ALLOW" && len(s.Args) == 0 && s.Includes == nil && s.Excludes == nil && slices.Contains(s.Names, name) {
				return true
			}
		}
		return false
	}
	if profile.DefaultAction != "SCMP_ACT_ERRNO" || !free("read") || !free("clone") || !free("pivot_root") || free("reboot") {
		t.Errorf("default %s, %d rules", profile.DefaultAction, len(profile.Syscalls))
	}
	if again, _ := NestingProfile(); string(again) != string(b) {
		t.Error("two calls differ")
	}
}
