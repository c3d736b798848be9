"""A laboratory for what a disk and a kernel may do to a store. In the order of the way through it:

    isolation    namespaces of its own, which end with everything in them
    programs     starting programs, and making the two that are written in C
    images       trees of files, images of them, and what each file must contain
    registry     serves the images; can be slow, and switched off
    machine      a disk image, mounted, with lamina on it in a boot of its own
    promises     what the user was told: this is complete, that may be gone
    workloads    what lamina does while the power may go
    snapshots    the same for containerd's calls; grpc makes them
    recording    runs a workload on a disk that notes every write
    disk         reads the notes, and makes disks as a cut may leave them
    scenes       the commands of which a system call fails
    index        what SQLite says of the index
    inspection   looks at a store afterwards, with the registry off, on, and off again
    verdict      what was found, by kind
    results      a line for each case, and the table at the end
"""
