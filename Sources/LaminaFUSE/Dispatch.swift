import CFuse

extension lamina_fuse_callbacks {
    /// From C to the handler. `context` is the `Worker` whose step makes the call; it lives at least as long as the step.
    static var dispatching: lamina_fuse_callbacks {
        lamina_fuse_callbacks(
            lookup: { context, request, unique, parent, name, length in
                dispatch(context, request, unique) { worker, pending in
                    worker.core.handler.lookup(
                        parent: parent, name: UnsafeRawBufferPointer(start: name, count: length),
                        thread: worker.thread, reply: EntryReply(pending: pending))
                }
            },
            getattr: { context, request, unique, node in
                dispatch(context, request, unique) { worker, pending in
                    worker.core.handler.getattr(
                        node: node, thread: worker.thread, reply: AttributeReply(pending: pending))
                }
            },
            readlink: { context, request, unique, node in
                dispatch(context, request, unique) { worker, pending in
                    worker.core.handler.readlink(
                        node: node, thread: worker.thread, reply: DataReply(pending: pending))
                }
            },
            open: { context, request, unique, node, flags in
                dispatch(context, request, unique) { worker, pending in
                    worker.core.handler.open(
                        node: node, flags: flags, thread: worker.thread, reply: OpenReply(pending: pending))
                }
            },
            reopen: { context, unique, node in
                guard let context else { return false }
                return Unmanaged<Worker>.fromOpaque(context)._withUnsafeGuaranteedRef { worker in
                    worker.core.handler.reopen(
                        node: node, thread: worker.thread, reply: ReopenReply(unique: unique, fuse: worker.core.fuse))
                }
            },
            lacks_xattr: { context, node, name, length in
                guard let context else { return false }
                return Unmanaged<Worker>.fromOpaque(context)._withUnsafeGuaranteedRef { worker in
                    worker.core.handler.lacksXattr(
                        node: node, name: UnsafeRawBufferPointer(start: name, count: length), thread: worker.thread)
                }
            },
            read: { context, request, unique, node, handle, offset, size in
                dispatch(context, request, unique) { worker, pending in
                    worker.core.handler.read(
                        node: node, handle: handle, offset: offset, size: size, thread: worker.thread,
                        reply: ReadReply(pending: pending))
                }
            },
            release: { context, node, handle in
                guard let context else { return }
                Unmanaged<Worker>.fromOpaque(context)._withUnsafeGuaranteedRef { worker in
                    worker.core.handler.release(node: node, handle: handle, thread: worker.thread)
                }
            },
            readdir: { context, request, unique, node, offset, size, plus in
                dispatch(context, request, unique) { worker, pending in
                    worker.core.handler.readdir(
                        node: node, offset: offset, thread: worker.thread,
                        reply: DirectoryReply(pending: pending, size: size, isPlus: plus))
                }
            },
            getxattr: { context, request, unique, node, name, length, size in
                dispatch(context, request, unique) { worker, pending in
                    worker.core.handler.getxattr(
                        node: node, name: UnsafeRawBufferPointer(start: name, count: length), thread: worker.thread,
                        reply: AttributeValueReply(pending: pending, size: size))
                }
            },
            listxattr: { context, request, unique, node, size in
                dispatch(context, request, unique) { worker, pending in
                    worker.core.handler.listxattr(
                        node: node, thread: worker.thread,
                        reply: AttributeValueReply(pending: pending, size: size))
                }
            },
            statfs: { context, request, unique, node in
                dispatch(context, request, unique) { worker, pending in
                    worker.core.handler.statfs(
                        node: node, thread: worker.thread, reply: StatisticsReply(pending: pending))
                }
            },
            idle: { context in
                guard let context else { return false }
                return Unmanaged<Worker>.fromOpaque(context)._withUnsafeGuaranteedRef { worker in
                    worker.core.handler.idle(thread: worker.thread)
                }
            }
        )
    }
}

@inline(__always)
private func dispatch(
    _ context: UnsafeMutableRawPointer?, _ request: OpaquePointer?, _ unique: UInt64,
    _ body: (Worker, consuming PendingReply) -> Void
) {
    guard let context, let request else { return }
    Unmanaged<Worker>.fromOpaque(context)._withUnsafeGuaranteedRef { worker in
        body(worker, PendingReply(request: request, unique: unique, core: worker.core))
    }
}
