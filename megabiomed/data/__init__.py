"""The data path: token store, global sample order, packing, loading."""
