"""What a cache can be asked to do, one kind of operation a module; `Cache` is all of them together.

Each method names things: it turns arguments into requests and hands a flow to a driver, in a blocking form and in an
`a`-prefixed asynchronous one.
"""
