package native

import (
	"encoding/csv"
	"fmt"
	"path"
	"slices"
	"strings"
)

// defaultPath is the search path of containers that set none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// variable is one of the environment.
type variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// variables is an ordered set of them.
type variables []variable

// set adds a variable, or gives it a new value at its old place: with
// evaluation a later one may refer to an earlier.
func (v *variables) set(name, value string) {
	for i := range *v {
		if (*v)[i].Name == name {
			(*v)[i].Value = value
			return
		}
	}
	*v = append(*v, variable{name, value})
}

func (v variables) has(name string) bool {
	return slices.ContainsFunc(v, func(e variable) bool { return e.Name == name })
}

func (v variables) environ() []string {
	env := make([]string, len(v))
	for i, e := range v {
		env[i] = e.Name + "=" + e.Value
	}
	return env
}

// envPrefixes mark host variables that are meant for the container, the
// strongest first.
var envPrefixes = [...]string{"CORACLEENV_", "SINGULARITYENV_", "APPTAINERENV_"}

// ownPrefixes mark our settings, which stay outside.
var ownPrefixes = [...]string{"CORACLE_", "SINGULARITY_", "APPTAINER_"}

// alwaysPassed tells the variables that --cleanenv leaves too.
func alwaysPassed(name string) bool {
	if name == "TERM" {
		return true
	}
	switch strings.ToLower(name) {
	case "http_proxy", "https_proxy", "no_proxy", "all_proxy", "ftp_proxy":
		return name == strings.ToLower(name) || name == strings.ToUpper(name)
	}
	return false
}

// neverPassed tells the host's variables that mean nothing inside.
func neverPassed(name string) bool { return name == "LD_LIBRARY_PATH" || notPermitted(name) }

// notPermitted tells those that the user cannot force either.
func notPermitted(name string) bool {
	switch name {
	case "HOME", "SINGULARITY_SHELL", "SINGULARITY_APPNAME":
		return true
	}
	return name == "PATH"
}

// environment decides the payload's environment as far as it can be known
// outside: host variables go to Process.Env, and those meant for the container
// into the action, which injects them when the image's own are set.
func (p *planner) environment() error {
	inject, err := p.injected()
	if err != nil {
		return err
	}
	p.plan.Process.Env = p.hostEnvironment(inject).environ()
	return p.setAction(inject)
}

// hostEnvironment is what the payload starts from, before the image's scripts.
func (p *planner) hostEnvironment(inject variables) variables {
	var env variables
	container := p.cmd.Container
	if container == "" {
		container = p.source.path
	}
	if p.o.NoEval {
		env.set("SINGULARITY_NO_EVAL", "1")
	}
	env.set("SINGULARITY_CONTAINER", container)
	env.set("SINGULARITY_NAME", path.Base(container))
	env.set("CORACLE_CONTAINER", container)
	env.set("CORACLE_NAME", path.Base(container))
	env.set("SINGULARITY_BIND", strings.Join(p.o.Bind, ","))
	env.set("SINGULARITY_COMMAND", string(p.cmd.Kind))
	if p.o.Shell != "" {
		env.set("SINGULARITY_SHELL", p.o.Shell)
	}
	if p.o.CleanEnv {
		env.set("LANG", "C")
	}
	env = append(env, p.passed(inject)...)
	env.set("HOME", p.home.target)
	env.set("PATH", defaultPath)
	if p.o.App != "" {
		env.set("SINGULARITY_APPNAME", p.o.App)
	}
	return slices.DeleteFunc(env, func(v variable) bool { return inject.has(v.Name) })
}

// passed are the host's variables that cross, in the host's order.
func (p *planner) passed(inject variables) variables {
	var env variables
	var risky []string
	index := map[string]int{}
	hostPath := ""
	for _, e := range p.h.Env {
		name, value, ok := strings.Cut(e, "=")
		switch {
		case !ok || !validName(name) || hasPrefix(name, ownPrefixes[:]) || hasPrefix(name, envPrefixes[:]) || inject.has(name):
		case name == "PATH":
			hostPath = value
		case !alwaysPassed(name) && (neverPassed(name) || p.o.CleanEnv):
		default:
			if i, seen := index[name]; seen {
				env[i].Value = value
				continue
			}
			index[name] = len(env)
			env = append(env, variable{name, value})
			if riskyInside(name) {
				risky = append(risky, name)
			}
		}
	}
	if len(risky) > 0 {
		p.verbose("Host variables that can break programs in the container: %s (--cleanenv keeps them out)", strings.Join(risky, " "))
	}
	if !p.o.CleanEnv && !inject.has("USER_PATH") {
		// Nothing here uses it; scripts written for old versions of Singularity may.
		env.set("USER_PATH", hostPath+":"+defaultPath)
	}
	return env
}

// riskyInside tells variables that point programs at the host's files.
func riskyInside(name string) bool {
	return hasPrefix(name, []string{"PYTHONPATH", "PYTHONHOME", "LD_", "R_LIBS", "PERL5LIB", "CONDA_", "OMPI_"})
}

func hasPrefix(name string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// validName tells what a shell takes as a variable's name. Bash exports its
// functions under others (BASH_FUNC_x%%), which no container needs.
func validName(name string) bool {
	for i, c := range []byte(name) {
		if !(c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9') {
			return false
		}
	}
	return name != ""
}

// injected are the variables meant for the container: SINGULARITYENV_ and its
// kin, stronger --env-file, strongest --env.
func (p *planner) injected() (variables, error) {
	var all variables
	rank := map[string]int{}
	for _, e := range p.h.Env {
		name, value, _ := strings.Cut(e, "=")
		for r, prefix := range envPrefixes {
			key, ok := strings.CutPrefix(name, prefix)
			if !ok || !strings.Contains(e, "=") || !p.mayInject(key, name) {
				continue
			}
			key = userPathName(key)
			if old, seen := rank[key]; !seen || r <= old {
				rank[key] = r
				all.set(key, value)
			}
		}
	}
	byFlag, err := parseEnv(p.o.Env)
	if err != nil {
		return nil, err
	}
	byFile, err := p.fileVariables()
	if err != nil {
		return nil, err
	}
	for _, v := range byFile {
		if byFlag.has(v.Name) {
			p.warn("Ignored environment file variable %s: override from --env", v.Name)
		} else if p.mayInject(v.Name, envPrefixes[1]+v.Name) {
			all.set(userPathName(v.Name), v.Value)
		}
	}
	for _, v := range byFlag {
		if v.Name == "" {
			p.warn("Ignore environment variable %s=%s: variable name missing", v.Name, v.Value)
		} else if p.mayInject(v.Name, envPrefixes[1]+v.Name) {
			all.set(userPathName(v.Name), v.Value)
		}
	}
	return all, nil
}

// mayInject warns of variables that cannot be set for the container.
func (p *planner) mayInject(name, source string) bool {
	switch {
	case name == "":
		return false
	case name == "PATH":
		return true // by way of SING_USER_DEFINED_PATH
	case notPermitted(name):
		p.warn("Overriding %s environment variable with %s is not permitted", name, source)
		return false
	case !validName(name):
		p.warn("Ignoring %s: %q is not the name of a variable", source, name)
		return false
	}
	return true
}

// userPathName is the name by which 99-runtimevars.sh knows a change of PATH.
func userPathName(name string) string {
	switch name {
	case "PATH", "PREPEND_PATH", "APPEND_PATH":
		return "SING_USER_DEFINED_" + name
	}
	return name
}

// parseEnv reads --env: K=V, or with several a line of CSV, as SingularityCE's
// flags do. A single value may hold commas.
func parseEnv(flags []string) (variables, error) {
	var all variables
	for _, flag := range flags {
		pairs := []string{strings.Trim(flag, `"`)}
		if strings.Count(flag, "=") > 1 {
			var err error
			if pairs, err = csv.NewReader(strings.NewReader(flag)).Read(); err != nil {
				return nil, fmt.Errorf("--env %q: %w", shorten(flag), err)
			}
		}
		for _, pair := range pairs {
			name, value, ok := strings.Cut(pair, "=")
			if !ok {
				return nil, fmt.Errorf("--env %q: %s must be formatted as key=value", shorten(flag), pair)
			}
			all.set(name, value)
		}
	}
	return all, nil
}

// fileVariables evaluates --env-file. Each file sees the host's variables, and
// not those of the file before.
func (p *planner) fileVariables() (variables, error) {
	var all variables
	for _, f := range p.o.EnvFiles {
		env := append(slices.Clone(p.h.Env), "SINGULARITY_IMAGE="+p.source.path)
		vars, err := evaluateFile(f, p.cmd.Args, env, commandLimit)
		if err != nil {
			return nil, fmt.Errorf("while processing %s: %w", f.Name, err)
		}
		for _, v := range vars {
			all.set(v.Name, v.Value)
		}
	}
	return all, nil
}
