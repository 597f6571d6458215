# Every recipe runs from the top of the tree.

staticcheck := "honnef.co/go/tools/cmd/staticcheck@v0.7.0"

# the static binary, ./coracle
build:
    CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o coracle ./cmd/coracle

# all tests
test *args:
    go test {{args}} ./...

# formatting, vet, staticcheck and the floors
check:
    test -z "$(gofmt -l .)"
    go vet ./...
    go run {{staticcheck}} ./...
    go test -run 'TestFloors|TestFusefs|TestEveryPackage|TestTopLevel' .

# ratios against bwrap, tar2sqfs, mksquashfs, the kernel and squashfuse
bench *args:
    go run ./conformance/bench {{args}}

# the same behaviours under Coracle and its peers
conformance *args:
    go test -count=1 {{args}} ./conformance

# the README's first command
demo:
    go run ./cmd/coracle run builtin://hello
