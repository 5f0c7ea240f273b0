"""Compiled programs, kept in the user's cache folder."""


def keep_compiled() -> None:
    """Makes JAX keep what it compiles in the user's cache folder, unless it was told where to.

    Programs of another processor are of no use, and may end the process: each kind has a folder of its own.
    """
    import jax

    from jaxft.core.cache import cache_dir
    from jaxft.core.devices import device_name
    from jaxft.core.digests import short_digest

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled" / short_digest(device_name())))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
