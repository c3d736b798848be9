import CLinux

/// The C library's heap.
public enum Heap {
    /// Limits the number of glibc's malloc arenas (M_ARENA_MAX, mallopt(3)), and gives blocks of 1 MiB and more their own
    /// mappings (M_MMAP_THRESHOLD), so that they leave no gaps in the heaps.
    ///
    /// By default each thread may get an arena, up to eight for each core, and each arena keeps what was freed in it: many
    /// threads that allocate a little then hold hundreds of megabytes. Call it before the second thread starts.
    public static func limitArenas(_ count: Int32) { lamina_tune_heap(count) }

    /// Gives freed memory back to the kernel (malloc_trim(3)); some milliseconds.
    public static func trim() { lamina_trim_heap() }
}
