"""The cache of compiled programs."""


def keep_compiled() -> None:
    """Makes JAX store compiled programs in the cache folder, unless JAX has a compilation cache already.

    Each device name has a separate folder, because a program for another processor can crash the process.
    """
    import jax

    from jaxft.core.cache import cache_dir
    from jaxft.core.devices import device_name
    from jaxft.core.digests import short_digest

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled" / short_digest(device_name())))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
