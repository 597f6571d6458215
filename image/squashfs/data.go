package squashfs

// Data is the stored content of one regular file, as Writer.WriteData returns it.
type Data struct {
	size int64
}
