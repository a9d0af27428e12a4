"""Where the coordinators are: asked of NATS, a list, Kubernetes, DNS, Consul or etcd.

Each backend says who is there, first at once and then with every change (`Backend.watch`);
`Discovery` follows one, keeps the last that it said, and shows when that may be out of date.
"""
